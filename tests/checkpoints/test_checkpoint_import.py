"""`vqa checkpoint import`: foreign weights become artifacts, or are refused with every reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import read_weights
from stages.checkpoint import import_weights, plan_weights
from stages.checkpoints.choices import ImportChoices
from stages.checkpoints.expected import sevila_shapes, vlap_shapes
from stages.checkpoints.naming import renamed
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Runtime
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.reference_names import (
    ours_from_reference,
    reference_from_ours,
    sevila_from_reference,
    sevila_from_reference_name,
)
from stages.models.vlap import LoraConfig, VlapConfig, VlapStudent, trained_state
from stages.systems.build import load_sevila
from stages.systems.vlap import load_vlap

CPU = torch.device("cpu")


@pytest.fixture
def vlap(published: Any, tmp_path: Path) -> Callable[..., list[Artifact]]:
    """Imports files as VLAP weights on the tiny InstructBLIP."""

    def run(*files: object, **options: Any) -> list[Artifact]:
        choices = ImportChoices("vlap", str(published.instructblip), "shapes", **options)
        plans = plan_weights([str(file) for file in files], choices)
        results = import_weights(Workspace(tmp_path / "ws"), plans, choices, Runtime())
        return [result.artifact for result in results if result.artifact is not None]

    return run


@pytest.fixture
def sevila(published: Any, tmp_path: Path) -> Callable[..., list[Artifact]]:
    """Imports files as SeViLA weights on the tiny BLIP-2."""

    def run(*files: object, **options: Any) -> list[Artifact]:
        choices = ImportChoices("sevila", str(published.blip2), "shapes", **options)
        plans = plan_weights([str(file) for file in files], choices)
        results = import_weights(Workspace(tmp_path / "ws"), plans, choices, Runtime())
        return [result.artifact for result in results if result.artifact is not None]

    return run


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


# --- what becomes what ---------------------------------------------------------------------------


def test_a_student_brings_its_frames_and_its_prompter(published: Any, vlap: Any) -> None:
    (student,) = vlap(published.file("student", training=True))
    made = student.config
    assert (made["role"], made["model"]["frames"], made["model"]["keep"]) == ("student", 4, 2)
    ours, _ = ours_from_reference(published.states["student"])
    wanted = {n: t for n, t in ours.items() if not n.startswith("teacher.")}
    same(read_weights(student), wanted)
    system = load_vlap(student, CPU)
    assert (system.frames, system.keep) == (4, 2)


def test_the_teacher_is_taken_out_of_a_merged_file(published: Any, vlap: Any) -> None:
    (teacher,) = vlap(published.file("merged"), roles=("teacher",), frames=4)
    ours, _ = ours_from_reference(published.states["merged"])
    found = read_weights(teacher)
    assert torch.equal(found["query_tokens"], ours["teacher.query_tokens"])
    assert torch.equal(found["ln_vision.weight"], ours["ln_vision.weight"])
    load_vlap(teacher, CPU)


def test_the_start_of_a_merged_file_keeps_its_own_side(published: Any, vlap: Any) -> None:
    (start,) = vlap(published.file("merged"), frames=4, keep=2)
    assert start.config["role"] == "start"
    ours, _ = ours_from_reference(published.states["merged"])
    assert torch.equal(read_weights(start)["query_tokens"], ours["query_tokens"])
    load_vlap(start, CPU)


def test_sevila_becomes_an_answerer_and_a_localizer(published: Any, sevila: Any) -> None:
    answerer, localizer = sevila(published.file("sevila"))
    ours, _ = sevila_from_reference(published.states["sevila"])
    same(read_weights(answerer) | read_weights(localizer), ours)
    assert answerer.config["role"] == "answerer"
    assert localizer.config["role"] == "localizer"
    model = load_sevila(
        str(published.blip2), CPU, "float32", {}, answerer=answerer, localizer=localizer
    )
    assert torch.equal(model.side("localizer").query_tokens, ours["localizer.query_tokens"])


def test_text_parts_and_heads_of_stage_one_have_no_place(published: Any, sevila: Any) -> None:
    file = published.file("stage1")
    with pytest.raises(MissingInput, match=r"answerer\.language_projection \(2 of 2 tensors\)"):
        sevila(file, roles=("answerer",))
    missing = ("answerer.language_projection",)
    (answerer,) = sevila(file, roles=("answerer",), allow_missing=missing)
    base = load_file(published.blip2 / "model.safetensors")
    found = read_weights(answerer)
    assert torch.equal(
        found["answerer.language_projection.weight"], base["language_projection.weight"]
    )
    assert not any("word_embeddings" in name or "intermediate.dense" in name for name in found)
    assert answerer.manifest["imported"]["from_base"] == [
        "answerer.language_projection.bias",
        "answerer.language_projection.weight",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_keep_the_type_they_were_stored_in(
    published: Any, sevila: Any, dtype: torch.dtype
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in published.states["stage2"].items()}
    path = published.root / f"{dtype}.pth"
    torch.save({"model": state}, path)
    (answerer,) = sevila(path, roles=("answerer",))
    wanted = {sevila_from_reference_name(name): tensor for name, tensor in state.items()}
    same(read_weights(answerer), {str(name): tensor for name, tensor in wanted.items()})


# --- several files -------------------------------------------------------------------------------


def test_named_files_stand_over_the_plain_one(published: Any, sevila: Any) -> None:
    base, fine, refined = (published.file(n) for n in ("sevila", "stage2", "localizer"))
    answerer, localizer = sevila(f"base={base}", f"answerer={fine}", f"localizer={refined}")
    stage2, _ = sevila_from_reference(published.states["stage2"])
    refinement, _ = sevila_from_reference(published.states["localizer"])
    same(read_weights(answerer), stage2)
    same(read_weights(localizer), refinement)


def test_one_part_alone_can_be_taken_from_another_run(published: Any, sevila: Any) -> None:
    plain, other = published.file("sevila"), published.file("stage2")
    answerer, _ = sevila(plain, f"answerer.ln_vision={other}")
    pretrained, _ = sevila_from_reference(published.states["sevila"])
    stage2, _ = sevila_from_reference(published.states["stage2"])
    found = read_weights(answerer)
    assert torch.equal(found["answerer.ln_vision.bias"], stage2["answerer.ln_vision.bias"])
    assert torch.equal(found["answerer.query_tokens"], pretrained["answerer.query_tokens"])


def test_a_one_sided_file_can_be_the_localizer(published: Any, sevila: Any) -> None:
    (localizer,) = sevila(f"localizer={published.file('stage2')}", roles=("localizer",))
    stage2, _ = sevila_from_reference(published.states["stage2"])
    renamed = {name.replace("answerer.", "localizer.", 1): t for name, t in stage2.items()}
    same(read_weights(localizer), renamed)


def test_two_plain_files_for_one_group_are_a_question(published: Any, sevila: Any) -> None:
    with pytest.raises(UsageError, match=r"both fill answerer\.query_tokens") as raised:
        sevila(published.file("sevila"), published.file("stage2"))
    assert raised.value.hint.startswith("say which one does: answerer.query_tokens=")


def test_a_file_named_for_what_it_lacks_is_refused(published: Any, vlap: Any) -> None:
    with pytest.raises(UsageError, match="has nothing of frame_prompter"):
        vlap(f"frame_prompter={published.file('start')}", frames=4, keep=2)


def test_a_missing_side_may_be_the_bases_own(published: Any, sevila: Any) -> None:
    file = published.file("stage2")
    with pytest.raises(MissingInput, match=r"localizer\.qformer"):
        sevila(file)
    _, localizer = sevila(file, allow_missing=("localizer",))
    base = load_file(published.blip2 / "model.safetensors")
    assert torch.equal(read_weights(localizer)["localizer.query_tokens"], base["query_tokens"])


# --- refusals ------------------------------------------------------------------------------------


def test_a_half_filled_group_is_named_with_its_tensors(published: Any, vlap: Any) -> None:
    state = dict(published.states["start"])
    del state["Qformer.bert.encoder.layer.1.output_query.dense.weight"]
    path = published.root / "half.pth"
    torch.save({"model": state}, path)
    with pytest.raises(MissingInput, match=r"qformer \(1 of 58 tensors\): qformer\.encoder") as it:
        vlap(path, frames=4, keep=2)
    assert it.value.hint == (
        "half.pth has 57 of 58 tensors of qformer: it is another layout or cut short"
    )


def test_no_base_can_stand_in_for_a_prompter(published: Any, vlap: Any) -> None:
    with pytest.raises(MissingInput, match="frame_prompter"):
        vlap(
            published.file("start"),
            roles=("student",),
            frames=4,
            keep=2,
            allow_missing=("frame_prompter",),
        )


def test_other_sizes_than_the_bases_are_refused(published: Any, vlap: Any) -> None:
    file = published.file("start", query_tokens=torch.zeros(1, 9, 24))
    with pytest.raises(DataError, match=r"query_tokens has shape \(1, 9, 24\), the base asks for"):
        vlap(file, frames=4, keep=2)


@pytest.mark.parametrize(("frames", "keep"), [(8, 4), (4, 4), (4, 1)])
def test_frames_that_contradict_the_decoder_are_refused(
    published: Any, vlap: Any, frames: int, keep: int
) -> None:
    with pytest.raises(DataError, match="4 -> 2 frames") as raised:
        vlap(published.file("student"), frames=frames, keep=keep)
    assert raised.value.hint == "--frames 4 --keep 2"


def test_a_student_without_its_decoder_needs_to_be_told_its_frames(
    published: Any, vlap: Any
) -> None:
    state = published.states["student"]
    kept = {n: t for n, t in state.items() if not n.startswith("dist_fc_bn")}
    path = published.root / "inference.pth"
    torch.save({"model": kept}, path)
    with pytest.raises(UsageError, match="do not say from how many frames"):
        vlap(path)
    with pytest.raises(DataError, match="2 frames a segment"):
        vlap(path, frames=8, keep=2)
    (student,) = vlap(path, frames=4, keep=2)
    load_vlap(student, CPU)


def test_a_teacher_needs_to_be_told_its_frames(published: Any, vlap: Any) -> None:
    with pytest.raises(UsageError, match="do not say") as raised:
        vlap(published.file("instructblip"))
    assert raised.value.hint == "--frames T"


def test_a_file_on_another_language_model_is_refused(published: Any, vlap: Any) -> None:
    alias = "t5_model.encoder.embed_tokens.weight"
    vlap(published.file("teacher"), frames=4)
    other = published.states["teacher"][alias] + 1
    kept = {n: t for n, t in published.states["teacher"].items() if "decoder.embed" not in n}
    path = published.root / "other-t5.pth"
    torch.save({"model": kept | {alias: other}}, path)
    with pytest.raises(DataError, match=r"is not the base's language_model\.shared\.weight"):
        vlap(path, frames=4)


def test_a_base_of_another_layout_is_refused(published: Any) -> None:
    choices = ImportChoices("vlap", str(published.blip2), "shapes", frames=4)
    with pytest.raises(UsageError, match="this needs instructblip"):
        plan_weights([str(published.file("start"))], choices)


def test_a_file_without_anything_of_the_system_is_refused(published: Any, sevila: Any) -> None:
    path = published.root / "other.pth"
    torch.save({"backbone.a": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="no tensor that sevila weights have a place for"):
        sevila(path)


def test_unexpected_names_are_told_and_stop_nothing(published: Any, tmp_path: Path) -> None:
    file = published.file("start", somebody_else=torch.zeros(2))
    choices = ImportChoices("vlap", str(published.instructblip), "shapes", frames=4, keep=2)
    (plan,) = plan_weights([str(file)], choices)
    report = plan.plan.as_json()
    assert report["files"][0]["unexpected"] == ["somebody_else"]
    assert report["files"][0]["dropped"] == ["Qformer.bert.embeddings.position_ids"]
    plan.plan.refuse_if_incomplete()


# --- the command ---------------------------------------------------------------------------------


def test_the_manifest_says_where_everything_came_from(
    published: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    file = published.file("sevila", training=True)
    arguments = (file, "--as", "sevila", "--base", published.blip2, "-b", "shapes", "-w", tmp_path)
    outcome = vqa("checkpoint", "import", *arguments, "--name", "released")
    assert outcome.code == 0
    answerer, localizer = outcome.json["artifacts"]
    assert answerer["id"].startswith("released-")
    assert localizer["id"].startswith("released-localizer-")
    assert outcome.json["next"] == [
        "vqa eval --benchmark shapes --system sevila "
        f"--weights {answerer['id']} --selector {localizer['id']}"
    ]
    manifest = json.loads((Path(answerer["path"]) / "manifest.json").read_text())
    (source,) = manifest["imported"]["files"]
    assert source["kind"] == "sevila"
    assert source["sha256"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert str(published.root) not in json.dumps(manifest["config"])
    groups = {group["group"]: group for group in outcome.json["report"]["groups"]}
    assert groups["localizer.qformer"]["matched"] == groups["localizer.qformer"]["expected"] == 44
    assert outcome.json["report"]["unused"] == {}
    assert vqa("artifacts", "verify", "-w", tmp_path).code == 0
    again = vqa("checkpoint", "import", *arguments, "--name", "released")
    assert again.json["reused"]


def test_other_contents_are_another_artifact(published: Any, vlap: Any) -> None:
    (first,) = vlap(published.file("start"), frames=4, keep=2)
    (second,) = vlap(published.file("instructblip"), frames=4, keep=2)
    assert first.fingerprint != second.fingerprint


def test_a_refusal_has_the_contracts_exit_codes(
    published: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    rest = ("--as", "vlap", "--base", published.instructblip, "-w", tmp_path, "--frames", 4)
    absent = vqa("checkpoint", "import", tmp_path / "no.pth", *rest, "-b", "shapes")
    assert (absent.code, absent.json["error"]["code"]) == (4, 4)
    student = (published.file("start"), "--role", "student", "--keep", 2)
    assert vqa("checkpoint", "import", *student, *rest, "-b", "shapes").code == 4
    sized = published.file("start", query_tokens=torch.zeros(1, 9, 24))
    assert vqa("checkpoint", "import", sized, *rest, "-b", "shapes").code == 3
    assert vqa("checkpoint", "import", sized, *rest).code == 2
    assert not (tmp_path / "weights").exists()


def test_a_dry_run_says_what_would_be_filled_and_writes_nothing(
    published: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    rest = ("--as", "vlap", "--base", published.instructblip, "-w", tmp_path, "-b", "shapes")
    outcome = vqa("checkpoint", "import", published.file("student"), *rest, "--dry-run")
    assert outcome.code == 0
    assert outcome.json["plan"]["artifacts"][0].startswith("shapes-vlap-student-4to2-imported-")
    assert {group["group"] for group in outcome.json["plan"]["report"]["groups"]} >= {"vision"}
    assert not (tmp_path / "weights").exists()


def test_the_terminal_sees_every_group_before_a_refusal(
    published: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from vqa_cli.main import run_command

    file = published.file("stage1", stranger=torch.zeros(1))
    rest = ["--as", "sevila", "--base", str(published.blip2), "-w", str(tmp_path), "-b", "shapes"]
    assert run_command(["checkpoint", "import", str(file), *rest, "--role", "answerer"]) == 4
    told = capfd.readouterr().err
    assert "answerer.language_projection: MISSING 2 of 2 tensors" in told
    assert "answerer.qformer: 44 tensors from" in told
    assert "1 UNEXPECTED: stranger" in told
    assert "8 tensors without a place here" in told


def test_safetensors_and_folders_are_sources_too(published: Any, sevila: Any) -> None:
    state = published.states["stage2"]
    file = published.root / "stage2.safetensors"
    save_file(state, file)
    (from_file,) = sevila(file, roles=("answerer",))
    wanted, _ = sevila_from_reference(state)
    same(read_weights(from_file), wanted)
    (from_folder,) = sevila(published.blip2, roles=("answerer",))
    base = load_file(published.blip2 / "model.safetensors")
    found = read_weights(from_folder)
    assert torch.equal(found["answerer.qformer.layernorm.bias"], base["qformer.layernorm.bias"])


def test_half_of_a_towers_bias_is_not_taken_for_a_whole_one(published: Any) -> None:
    state = dict(published.states["blip2-whole"])
    del state["visual_encoder.blocks.0.attn.v_bias"]
    names = renamed(state, "reference", "sevila")
    assert names.unexpected == ["visual_encoder.blocks.0.attn.q_bias"]
    assert "vision_model.encoder.layers.0.self_attn.qkv.bias" not in names.ours
    assert names.ours["vision_model.encoder.layers.1.self_attn.qkv.bias"] == (
        "visual_encoder.blocks.1.attn.q_bias",
        "visual_encoder.blocks.1.attn.v_bias",
    )


def test_adapters_of_a_lora_run_come_with_their_rank_and_places(
    published: Any, vlap: Any, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    network = VlapConfig(frames=4, keep=2, lora=LoraConfig(rank=3, targets=("q", "v")))
    torch.manual_seed(0)
    folder = BackboneFolder(published.instructblip)
    student = VlapStudent(InstructBlip.from_config(folder.config), network, tokens=5)
    state = trained_state(student)
    torch.save({"model": reference_from_ours(state)}, tmp_path / "lora.pth")
    (artifact,) = vlap(tmp_path / "lora.pth")
    assert artifact.config["model"]["lora"]["rank"] == 3
    assert artifact.config["model"]["lora"]["targets"] == ["q", "v"]
    same(read_weights(artifact), state)
    load_vlap(artifact, CPU)


def test_the_published_sizes_are_what_an_import_expects() -> None:
    """Counts of specs/vlap.md 4 and specs/sevila.md 7.1, at full size and without any memory."""
    t5 = {
        "vocab_size": 32_128, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24,
        "num_heads": 32, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu",
        "decoder_start_token_id": 0,
    }  # fmt: skip
    instructblip = {"model_type": "instructblip", "qformer_config": {"vocab_size": 30_523}}
    config = {"num_query_tokens": 32, "vision_config": {}, "text_config": t5}
    student = vlap_shapes(
        config | instructblip, VlapConfig(frames=32, keep=4), "student", tokens=257
    )
    assert sum(math.prod(shape) for shape in student.values()) == 187_413_152
    both = sevila_shapes(config | {"model_type": "blip-2"}, ["answerer", "localizer"])
    assert len(both) == 518
    assert sum(math.prod(shape) for shape in both.values()) == 213_479_936
