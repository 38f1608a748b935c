"""Golden data of VLAP: where it is, how it is read, and the reference's weights in our modules."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import AnswerTokens, TextBatch
from stages.models.reference_names import ours_from_reference, ours_from_reference_name
from stages.models.vlap import VlapConfig, VlapStudent, VlapTeacher

HERE = Path(__file__).resolve()
CHECKOUT = HERE.parents[2]
VALUE_TOLERANCE = 1e-5


def golden_folder() -> Path | None:
    """The variable, the shared folder beside the checkout, the copy here; None if there is none."""
    given = os.environ.get("VQA_GOLDEN_VLAP")
    if given is not None:
        if not (Path(given) / "weights_student.json").is_file():
            pytest.fail(f"VQA_GOLDEN_VLAP={given!r} is set but holds no golden data of VLAP")
        return Path(given)
    for folder in (CHECKOUT.parent / "shared/golden/vlap", HERE.parent / "data/vlap"):
        if folder.is_dir():
            return folder
    return None


@dataclass(frozen=True)
class Golden:
    """Cases by name; sizes and ids come from the JSON beside each."""

    folder: Path
    complete: bool = False
    """Whether an absent case is a failure; the copy in this repository holds only some."""

    def _file(self, name: str) -> Path:
        file = self.folder / name
        if not file.is_file():
            (pytest.fail if self.complete else pytest.skip)(f"{name} is not in the golden folder")
        return file

    def json(self, case: str) -> dict[str, Any]:
        return json.loads(self._file(f"{case}.json").read_text(encoding="utf-8"))

    def tensors(self, case: str) -> dict[str, Tensor]:
        return load_file(self._file(f"{case}.safetensors"))

    def cases(self, start: str) -> list[str]:
        """Names of the cases that begin with `start`; other sets have other sizes in them."""
        names = sorted(file.stem for file in self.folder.glob(f"{start}*.json"))
        assert names, f"no {start}* in {self.folder}"
        return names

    @property
    def config(self) -> dict[str, Any]:
        return self.json("weights_student")["config"]

    def backbone(self) -> InstructBlip:
        """Our InstructBLIP in the sizes of this set, with random weights."""
        sizes = self.config
        qformer = dict(sizes["qformer"])
        qformer["vocab_size"] = qformer.pop("vocab_size_with_added_DEC_token")
        qformer.pop("encoder_width")
        t5 = sizes["t5"]
        composite = {
            "vision_config": {"hidden_size": sizes["vit_width"]},
            "qformer_config": qformer,
            "text_config": t5 | {"decoder_start_token_id": t5["decoder_start_token_id"]},
            "num_query_tokens": sizes["num_query_tokens"],
        }
        tokens = AnswerTokens(
            option=sizes["option_token_id"],
            letters=tuple(sizes["letter_ids"]),
            yes=-1,
            no=-1,
            eos=t5["eos_token_id"],
            pad=t5["pad_token_id"],
        )
        return InstructBlip.from_config(composite, answer_tokens=tokens)

    def vlap_config(self, **changes: Any) -> VlapConfig:
        sizes = self.config
        return VlapConfig(frames=sizes["frames_T"], keep=sizes["kept_K"], **changes)

    def student(self, **changes: Any) -> VlapStudent:
        """A student with the recorded weights, in train mode (the set has no dropout)."""
        student = VlapStudent(
            self.backbone(), self.vlap_config(**changes), tokens=self.config["vit_tokens"]
        )
        load_reference(student, self.tensors("weights_student"))
        return student.train()

    def teacher(self) -> VlapTeacher:
        """The teacher on all frames with the recorded weights."""
        frames = self.config["frames_T"]
        teacher = VlapTeacher(self.backbone(), VlapConfig(frames=frames, keep=frames))
        load_reference(teacher, self.tensors("weights_teacher"))
        return teacher.train()

    @staticmethod
    def text(case: dict[str, Tensor], phase: str) -> TextBatch:
        """The recorded token ids of a case; `phase` is train or eval."""
        return TextBatch(
            case["qformer_input_ids"],
            case["qformer_text_mask"],
            case[f"t5_input_ids_{phase}"],
            case[f"t5_text_mask_{phase}"],
        )

    @staticmethod
    def close(ours: Tensor, golden: Tensor, what: str) -> None:
        """At most 1e-5 apart anywhere."""
        assert ours.shape == golden.shape, what
        difference = (ours.detach().double() - golden.double()).abs().max().item()
        assert difference <= VALUE_TOLERANCE, f"{what}: {difference:.2e}"

    @staticmethod
    def gradient_close(
        ours: Tensor | None,
        golden: Tensor,
        what: str,
        *,
        absolute: float = 1e-6,
        share: float = 1e-4,
    ) -> None:
        """|difference| <= absolute + share * largest entry, as the golden README asks."""
        assert ours is not None, f"{what}: no gradient"
        limit = absolute + share * golden.abs().max().item()
        difference = (ours.double() - golden.double()).abs().max().item()
        assert difference <= limit, f"{what}: {difference:.2e} > {limit:.2e}"

    def gradients_close(self, model: nn.Module, golden: dict[str, Tensor], prefix: str) -> int:
        """Compare every recorded gradient with the one of our parameter; how many there were."""
        parameters = dict(model.named_parameters())
        compared = 0
        for name, value in golden.items():
            if name.startswith(prefix):
                ours = ours_from_reference_name(name.removeprefix(prefix))
                assert ours is not None
                parameter = parameters.get(ours, parameters.get(f"backbone.{ours}"))
                assert parameter is not None, ours
                self.gradient_close(parameter.grad, value, name)
                compared += 1
        return compared


def load_reference(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Reference weights into one of our modules: every tensor of ours is filled, none is left."""
    ours, unknown = ours_from_reference(state)
    assert unknown == []
    own = model.state_dict()
    inside = {name if name in own else f"backbone.{name}": value for name, value in ours.items()}
    missing, unexpected = model.load_state_dict(inside, strict=False)
    assert unexpected == []
    assert missing == []


@pytest.fixture(scope="session")
def vlap_golden() -> Golden:
    folder = golden_folder()
    if folder is None:
        pytest.skip("no golden data of VLAP: set VQA_GOLDEN_VLAP")
    torch.set_num_threads(1)
    return Golden(folder, complete="VQA_GOLDEN_VLAP" in os.environ)


@pytest.fixture
def find_golden() -> Callable[[], Path | None]:
    """The search for the folder itself, for the test of its rules."""
    return golden_folder
