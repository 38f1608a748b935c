"""The golden sets through `vqa checkpoint import` itself, and into what `vqa eval` loads.

The other files of this folder run every case over imported weights through the functions behind the
command; here the command line is run, with its refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.artifacts.store import Workspace
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.vision import VisionTower
from stages.models.selectors import first_argmax
from stages.systems.build import load_sevila
from stages.systems.vlap import VlapPrompter, load_vlap

Command = Callable[..., Any]
CPU = torch.device("cpu")
imported_vlap = pytest.mark.parametrize("vlap_golden", ["imported"], indirect=True, scope="session")
imported_sevila = pytest.mark.parametrize(
    "sevila_golden", ["imported"], indirect=True, scope="session"
)


def student_file(golden: Any) -> Path:
    file: Path = golden.imports.file("student", golden.tensors("weights_student"))
    return file


@imported_vlap
def test_a_student_is_imported_and_answers_as_recorded(
    vlap_golden: Any, vqa: Command, tmp_path: Path
) -> None:
    what = ("checkpoint", "import", student_file(vlap_golden), "--as", "vlap", "-b", "nextqa")
    onto = ("--base", vlap_golden.imports.base(), "--preset", "reference", "-w", tmp_path)
    refused = vqa(*what, *onto)
    assert refused.code == 4
    assert "vision" in refused.json["error"]["message"]

    done = vqa(*what, *onto, "--allow-missing", "vision")
    assert done.code == 0, done.json
    made = next(a for a in Workspace(tmp_path).finished("weights"))
    system = load_vlap(made, CPU, overrides={"eval_noise": False})
    assert isinstance(system.selector, VlapPrompter)
    student = system.selector.student
    assert student.config.teacher == "shared"  # the published code's choice
    data = vlap_golden.tensors("case07_inference_zero_noise")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    answer = student.answer(features, vlap_golden.text(data, "eval"), mode="letter")
    assert torch.equal(answer.indices, data["selected_index"])
    vlap_golden.close(answer.scores, data["letter_logits"], "letter_logits")
    assert torch.equal(answer.prediction, data["predicted_index"])


@imported_vlap
def test_an_imported_base_alone_does_not_answer_as_recorded(vlap_golden: Any) -> None:
    """What makes the numbers right comes out of the imported file, not out of the base."""
    data = vlap_golden.tensors("case04_teacher_answer")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    backbone, text = vlap_golden.backbone().eval(), vlap_golden.text(data, "eval")
    with torch.no_grad():
        visual = backbone.visual_tokens(backbone.normalise(features), text)
    assert (visual - data["visual_embeds"]).abs().max() > 0.1


@imported_vlap
def test_a_teacher_is_the_same_out_of_its_own_file_and_out_of_the_students(
    vlap_golden: Any,
) -> None:
    """The student's file keeps the teacher's Q-Former, queries and projection beside its own."""
    own, copied = vlap_golden.imports.teacher, vlap_golden.imports.copied_teacher
    assert own.keys() == copied.keys()
    different = {name for name in own if not torch.equal(own[name], copied[name])}
    assert different <= {"ln_vision.weight", "ln_vision.bias"}  # of which there is no copy


@imported_sevila
def test_a_base_and_both_sides_are_imported_and_answer_as_recorded(
    sevila_golden: Any, vqa: Command, tmp_path: Path
) -> None:
    """From four files, as a user has them: tower, T5, BLIP-2's Q-Former, SeViLA's two sides."""
    imports = sevila_golden.imports
    assert imports.base.is_dir()  # its start is written with it
    files, base = imports.files, tmp_path / "base"
    parts = [f"{part}={files[part]}" for part in ("vision", "language")]
    done = vqa(
        "checkpoint", "import", files["blip2"], *parts, "--as", "backbone",
        "--base", imports.folder / "start", "--out", base,
    )  # fmt: skip
    assert done.code == 0, done.json
    done = vqa(
        "checkpoint", "import", files["sevila"], "--as", "sevila", "--base", base, "-b", "nextqa",
        "-w", tmp_path / "workspace",
    )  # fmt: skip
    assert done.code == 0, done.json
    sides = {i.config["role"]: i for i in Workspace(tmp_path / "workspace").finished("weights")}
    answering, localizing = sides["answerer"], sides["localizer"]
    model = load_sevila(str(base), CPU, "float32", {}, answerer=answering, localizer=localizing)

    data, note = sevila_golden.tensors("case05_chain"), sevila_golden.json("case05_chain")
    tower = VisionTower.load(BackboneFolder(base))
    features = tower.features(data["video"].flatten(0, 1))
    features = features.reshape(*data["video"].shape[:2], *features.shape[1:])
    localizer, answerer = ([item["text"] for item in note[k]] for k in ("loc_input", "qa_input"))
    chosen = model.keyframes(features, localizer, note["K"]).indices
    assert torch.equal(chosen, data["frame_idx"])
    kept = features[torch.arange(len(features))[:, None], chosen]
    options = [len(note["answer_id"])] * len(features)
    letters = model.answer_letters(model.answerer_tokens(kept), answerer, options)
    sevila_golden.close("case 05", letters[:, : options[0]], data["letter_logits"], "letter_logits")
    assert first_argmax(letters).tolist() == note["result"]["output_text"]


@imported_sevila
def test_a_side_that_the_file_lacks_is_refused_and_may_be_the_bases(
    sevila_golden: Any, vqa: Command, tmp_path: Path
) -> None:
    imports = sevila_golden.imports
    one_side: dict[str, Tensor] = {
        name: tensor
        for name, tensor in torch.load(imports.files["sevila"], weights_only=True)["model"].items()
        if "_loc" not in name.partition(".")[0]
    }
    torch.save({"model": one_side}, tmp_path / "answerer.pth")
    what = (
        "checkpoint", "import", tmp_path / "answerer.pth", "--as", "sevila", "-b", "nextqa",
        "--base", imports.base, "-w", tmp_path / "workspace",
    )  # fmt: skip
    refused = vqa(*what)
    assert refused.code == 4
    assert "localizer" in refused.json["error"]["message"]
    assert vqa(*what, "--allow-missing", "localizer").code == 0
    sides = {i.config["role"]: i for i in Workspace(tmp_path / "workspace").finished("weights")}
    stored = load_file(imports.base / "model.safetensors")["query_tokens"]
    made = load_file(sides["localizer"].path / "weights.safetensors")["localizer.query_tokens"]
    assert torch.equal(made, stored)
