"""What an import must not do in silence: mix two sources in a group, or take what is no weight."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.artifacts.store import Workspace
from stages.artifacts.weights import read_weights
from stages.checkpoint import import_weights, plan_weights
from stages.checkpoints.assembly import Assembly
from stages.checkpoints.backbone_import import plan_backbone, write_backbone
from stages.checkpoints.choices import ImportChoices
from stages.checkpoints.writing import write_safetensors
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Runtime

EMBEDDING = "t5_model.encoder.embed_tokens.weight"
QUERIES = torch.zeros(1, 3, 24)
REST = ["qformer", "query_tokens", "language_projection", "ln_vision"]
BIAS = "visual_encoder.blocks.0.attn.{}_bias"


def saved(path: Path, state: dict[str, Tensor], without: str = "") -> Path:
    torch.save({"model": {n: t for n, t in state.items() if n != without}}, path)
    return path


def vlap_plan(published: Any, *files: object, **options: Any) -> Assembly:
    base = str(published.instructblip)
    choices = ImportChoices("vlap", base, "shapes", **{"frames": 4, **options})
    (plan,) = plan_weights([str(file) for file in files], choices)
    return plan.plan


def imported(published: Any, out: Path, system: Any, *files: object, **options: Any) -> Any:
    base = published.instructblip if system == "vlap" else published.blip2
    choices = ImportChoices(system, str(base), "shapes", **options)
    plans = plan_weights([str(file) for file in files], choices)
    results = import_weights(Workspace(out), plans, choices, Runtime())
    return read_weights(results[0].artifact)  # type: ignore[arg-type]


# --- a group is one source's ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("visual_encoder.blocks.1.mlp.fc1.weight", "vision"),
        ("t5_model.lm_head.weight", "language"),
        ("Qformer.bert.encoder.layer.0.output_query.dense.bias", "qformer"),
    ],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_folder_is_not_completed_from_the_base(
    published: Any, tmp_path: Path, name: str, group: str, allowed: bool
) -> None:
    file = saved(tmp_path / "cut.pth", published.states["blip2-whole"], without=name)
    item = plan_backbone([str(file)], str(published.blip2), [group] if allowed else [])
    with pytest.raises(MissingInput, match=rf"no file fills {group} \(1 of \d+ tensors\)") as it:
        write_backbone(item, tmp_path / "out")
    assert "cut short" in it.value.hint
    assert "--allow-missing" not in it.value.hint
    assert not (tmp_path / "out").exists()
    report = item.plan.groups[group]
    assert (report.source, report.matched) == ("cut.pth", report.expected - 1)


def test_weights_are_not_completed_from_the_base(published: Any, tmp_path: Path) -> None:
    state = published.states["start"]
    cut = "Qformer.bert.encoder.layer.1.output_query.dense.weight"
    file = saved(tmp_path / "cut.pth", state, without=cut)
    plan = vlap_plan(published, file, keep=2, allow_missing=("qformer",))
    with pytest.raises(MissingInput, match=r"qformer \(1 of 58"):
        plan.refuse_if_incomplete()
    assert not plan.from_base


def test_half_a_teachers_copy_is_not_completed_from_the_start(
    published: Any, tmp_path: Path
) -> None:
    cut = "Qformer_T.bert.encoder.layer.1.output_query.dense.weight"
    file = saved(tmp_path / "cut.pth", published.states["merged"], without=cut)
    with pytest.raises(MissingInput, match=r"qformer \(1 of 58"):
        vlap_plan(published, file, roles=("teacher",)).refuse_if_incomplete()


def test_the_embedding_that_lavis_leaves_is_no_language_model(
    published: Any, tmp_path: Path
) -> None:
    base = load_file(published.blip2 / "model.safetensors")
    theirs = base["language_model.shared.weight"]
    file = published.file("stage2", **{EMBEDDING: theirs.bfloat16()})
    write_backbone(plan_backbone([str(file)], str(published.blip2)), tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(found["language_model.shared.weight"], theirs)
    note = json.loads((tmp_path / "out/vqa_import.json").read_text())["groups"]
    assert note["language"]["source"] == note["vision"]["source"] == "the base"
    assert note["qformer"] == {"source": file.name, "tensors": 44, "matched": 44}
    assert note["language"]["matched"] == 0
    other = published.file("stage2", **{EMBEDDING: theirs.bfloat16() + 1})
    with pytest.raises(DataError, match=r"is not the base's language_model\.shared\.weight"):
        write_backbone(plan_backbone([str(other)], str(published.blip2)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


# --- what is no weight ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [torch.ones(8), torch.ones(16).half(), torch.ones(2, 8), torch.ones(17)]
)
@pytest.mark.parametrize("half", ["q", "v"])
def test_halves_of_a_bias_must_be_alike(published: Any, wrong: Tensor, half: str) -> None:
    file = published.file("blip2-whole", **{BIAS.format(half): wrong})
    with pytest.raises(DataError, match=r"q_bias float.* cannot make one bias"):
        plan_backbone([str(file)], str(published.blip2))


@pytest.mark.parametrize(
    "value", [torch.ones(3), torch.ones(2, 2).half(), torch.ones(4), torch.ones(2, 2).int()]
)
def test_a_value_goes_only_into_the_place_declared_for_it(tmp_path: Path, value: Tensor) -> None:
    declared = {"a": ("float32", (2, 2)), "b": ("float32", (1,))}
    with pytest.raises(DataError, match=r"^a is .*, and was declared as float32 \(2, 2\)"):
        write_safetensors(tmp_path / "x", declared, [("a", value), ("b", torch.ones(1))])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_integers_are_no_weights(published: Any, dtype: torch.dtype) -> None:
    file = published.file("stage2", query_tokens=QUERIES.to(dtype))
    told = rf"query_tokens has type {str(dtype).removeprefix('torch.')}"
    choices = ImportChoices("sevila", str(published.blip2), "shapes", roles=("answerer",))
    (weights,) = plan_weights([str(file)], choices)
    for plan in (weights.plan, plan_backbone([str(file)], str(published.blip2)).plan):
        with pytest.raises(DataError, match=told):
            plan.refuse_if_incomplete()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(
    published: Any, tmp_path: Path, value: float
) -> None:
    bad = QUERIES.clone()
    bad[0, 1, 2] = value
    file = published.file("stage2", query_tokens=bad)
    with pytest.raises(DataError, match="query_tokens holds values that are not finite"):
        imported(published, tmp_path / "ws", "sevila", file, roles=("answerer",))
    assert not Workspace(tmp_path / "ws").finished("weights")
    with pytest.raises(DataError, match="query_tokens holds values that are not finite"):
        write_backbone(plan_backbone([str(file)], str(published.blip2)), tmp_path / "out")
    bias = torch.full((16,), value)
    eva = published.file("eva", **{"blocks.0.attn.v_bias": bias})
    item = plan_backbone([f"vision={eva}"], str(published.blip2), REST)
    with pytest.raises(DataError, match=r"blocks\.0\.attn\.v_bias holds"):
        write_backbone(item, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


# --- which file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_the_more_specific_part_is_taken_in_any_order(
    published: Any, tmp_path: Path, turned: bool
) -> None:
    parts = [
        f"answerer.ln_vision={published.file('stage2')}",
        f"answerer={published.file('sevila', query_tokens=QUERIES)}",
    ]
    ordered = parts[::-1] if turned else parts
    found = imported(published, tmp_path, "sevila", *ordered, roles=("answerer",))
    assert torch.equal(found["answerer.query_tokens"], QUERIES)
    assert torch.equal(
        found["answerer.ln_vision.bias"], published.states["stage2"]["ln_vision.bias"]
    )


def test_of_two_files_for_one_part_the_later_is_taken(published: Any, tmp_path: Path) -> None:
    first, second = published.file("sevila"), published.file("stage2", query_tokens=QUERIES)
    files = (f"answerer={first}", f"answerer={second}")
    found = imported(published, tmp_path, "sevila", *files, roles=("answerer",))
    assert torch.equal(found["answerer.query_tokens"], QUERIES)


@pytest.mark.parametrize("part", ["lokalizer", "teacher", "answerer.qfromer"])
def test_a_part_that_does_not_exist_is_not_taken_for_a_file(
    published: Any, vqa: Callable[..., Any], tmp_path: Path, part: str
) -> None:
    outcome = vqa(
        "checkpoint", "import", f"{part}={published.file('stage2')}", "--as", "sevila",
        "--base", published.blip2, "-b", "shapes", "-w", tmp_path,
    )  # fmt: skip
    assert outcome.code == 2
    assert outcome.json["error"]["message"].endswith(f"{part} is no part")
    assert "answerer, localizer, qformer" in outcome.json["error"]["hint"]


def test_a_file_may_have_an_equals_sign_in_its_name(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("seed=7.pth"), published.states["start"])
    vlap_plan(published, "seed=7.pth", keep=2).refuse_if_incomplete()


def test_a_base_whose_shard_is_lost_is_told(published: Any, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(published.blip2, base)
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    index = {"weight_map": dict.fromkeys(weights, shard)}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingInput, match=f"shard {shard}"):
        plan_backbone([str(published.file("blip2-whole"))], str(base))
    save_file(weights, base / shard)
    plan_backbone([str(published.file("stage2"))], str(base)).plan.refuse_if_incomplete()


def test_an_instructblip_folder_is_no_sevila(published: Any) -> None:
    choices = ImportChoices("sevila", str(published.blip2), "shapes")
    with pytest.raises(DataError, match="reads the question"):
        plan_weights([str(published.instructblip)], choices)


def test_two_files_are_asked_about_by_the_first_group(published: Any) -> None:
    with pytest.raises(UsageError, match="both fill query_tokens"):
        vlap_plan(published, published.file("start"), published.file("instructblip"))
