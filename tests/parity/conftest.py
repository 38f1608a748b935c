"""Golden data: where it is, how it is read, and the references' weights in our modules.

Weights reach our modules in two ways, and tests of numbers run with both: placed by hand, tensor by
tensor, and imported as a user would (`golden_import`): a base folder, a file in reference names,
`vqa checkpoint import`, and then the loading of `vqa eval` or of the training stage.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import Blip2VisionModel, PreTrainedTokenizerFast

from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import AnswerTokens, BackboneText, PromptIds, TextBatch
from stages.models.backbones.vision import VisionTower, vision_config, vision_spec
from stages.models.frame_prompter import FramePrompter
from stages.models.qformer_distiller import DistillDecoder
from stages.models.reference_names import (
    ours_from_reference,
    ours_from_reference_name,
    sevila_from_reference,
    sevila_from_reference_name,
)
from stages.models.sevila import Sevila, SevilaConfig
from stages.models.vlap import VlapConfig, VlapStudent, VlapTeacher

HERE = Path(__file__).resolve()
CHECKOUT = HERE.parents[2]
VALUE_TOLERANCE = 1e-5
TABLE_VARIABLE = "VQA_PARITY_TABLE"
"""Names a file that the differences of a run are written to as JSON; see tools/parity_table.py."""
BY_HAND, IMPORTED = "by hand", "imported"
VLAP = ("vlap", "weights_student.json")
SEVILA = ("sevila", "config.json")


DIFFERENCES: dict[tuple[str, str, str], float] = {}
"""Largest absolute difference by system, case and way of the weights."""
_READ_CASE = {"vlap": ""}
"""The case whose tensors a test of VLAP read last."""
_NUMBERS = {
    "vlap_golden": (
        "test_vlap_distiller", "test_vlap_frame_prompter", "test_vlap_inference",
        "test_vlap_qformer", "test_vlap_reference_names", "test_vlap_student", "test_vlap_teacher",
    ),
    "sevila_golden": (
        "test_sevila_inference", "test_sevila_reference_names", "test_sevila_training",
        "test_sevila_vision",
    ),
}  # fmt: skip
"""Modules whose numbers depend on weights; their tests run with both ways."""


def _beside(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HERE.parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


golden_import = _beside("golden_import")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of numbers run with weights placed by hand and imported."""
    for fixture, modules in _NUMBERS.items():
        module = metafunc.module.__name__.rpartition(".")[2]
        if fixture in metafunc.fixturenames and module in modules:
            metafunc.parametrize(fixture, (BY_HAND, IMPORTED), indirect=True, scope="session")


def note_difference(system: str, case: str, way: str, difference: float) -> None:
    """Keep it for the table if it is the largest."""
    key = (system, case, way)
    DIFFERENCES[key] = max(DIFFERENCES.get(key, 0.0), difference)


def golden_folder(system: str, marker: str) -> Path | None:
    """The variable, the shared folder beside the checkout, the copy here; None if there is none.

    A variable that is set but does not lead to a file called `marker` is a failure.
    """
    variable = f"VQA_GOLDEN_{system.upper()}"
    given = os.environ.get(variable)
    if given is not None:
        if not (Path(given) / marker).is_file():
            pytest.fail(f"{variable}={given!r} is set but holds no golden data of {system}")
        return Path(given)
    for folder in (CHECKOUT.parent / f"shared/golden/{system}", HERE.parent / f"data/{system}"):
        if folder.is_dir():
            return folder
    return None


@dataclass(frozen=True)
class GoldenFolder:
    """Cases by name; sizes and ids come from the JSON beside each."""

    folder: Path
    complete: bool = False
    """Whether an absent case is a failure; the copy in this repository holds only some."""
    imports: Any = None
    """Imports the recorded weights (`golden_import`); None: they are placed by hand."""

    @property
    def way(self) -> str:
        """How weights reach our modules."""
        return IMPORTED if self.imports else BY_HAND

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


class Golden(GoldenFolder):
    """VLAP's cases."""

    @property
    def config(self) -> dict[str, Any]:
        return self.json("weights_student")["config"]

    def tensors(self, case: str) -> dict[str, Tensor]:
        if found := re.match(r"case(\d+)", case):
            _READ_CASE["vlap"] = f"case {found[1]}"
        return super().tensors(case)

    @cached_property
    def composite(self) -> dict[str, Any]:
        """The set's sizes as a composite `config.json`."""
        sizes = self.config
        qformer = dict(sizes["qformer"])
        qformer["vocab_size"] = qformer.pop("vocab_size_with_added_DEC_token")
        qformer.pop("encoder_width")
        side = math.isqrt(sizes["vit_tokens"] - 1)  # patches of one pixel: there is no tower
        return {
            "model_type": "instructblip",
            "vision_config": {
                "hidden_size": sizes["vit_width"],
                "image_size": side,
                "patch_size": 1,
            },
            "qformer_config": qformer,
            "text_config": sizes["t5"],
            "num_query_tokens": sizes["num_query_tokens"],
        }

    @cached_property
    def tokenizers(self) -> dict[str, PreTrainedTokenizerFast]:
        """Stand-ins by folder: the set has token ids, of which these know the answers'."""
        sizes = self.config
        words = {"<pad>": sizes["t5"]["pad_token_id"], "</s>": sizes["t5"]["eos_token_id"]}
        words |= {"Option": sizes["option_token_id"]}
        words |= dict(zip("ABCDE", sizes["letter_ids"], strict=True))
        free = (i for i in range(sizes["t5"]["vocab_size"]) if i not in words.values())
        t5 = words | dict(zip(("yes", "no", "▁"), free, strict=False))
        return {".": toy_tokenizer(t5), "qformer_tokenizer": toy_tokenizer({"<pad>": 0, "</s>": 1})}

    def backbone(self) -> InstructBlip:
        """Our InstructBLIP in the sizes of this set; random but for what an import reads of it."""
        if self.imports:
            return self.imports.backbone()
        sizes = self.config
        tokens = AnswerTokens(
            option=sizes["option_token_id"],
            letters=tuple(sizes["letter_ids"]),
            yes=-1,
            no=-1,
            eos=sizes["t5"]["eos_token_id"],
            pad=sizes["t5"]["pad_token_id"],
        )
        return InstructBlip.from_config(self.composite, answer_tokens=tokens)

    def vlap_config(self, **changes: Any) -> VlapConfig:
        sizes = self.config
        return VlapConfig(frames=sizes["frames_T"], keep=sizes["kept_K"], **changes)

    def student(self, **changes: Any) -> VlapStudent:
        """A student with the recorded weights, in train mode (the set has no dropout)."""
        student = VlapStudent(
            self.backbone(), self.vlap_config(**changes), tokens=self.config["vit_tokens"]
        )
        if self.imports:
            self.imports.fill_student(student)
        else:
            load_reference(student, self.tensors("weights_student"))
        return student.train()

    def prompter(self, data: dict[str, Tensor], frames: int, keep: int) -> FramePrompter:
        """A frame prompter with the weights of a case's own, `fs.*`."""
        own = {name: value for name, value in data.items() if name.startswith("fs.")}
        prompter = FramePrompter(frames, keep, self.config["vit_tokens"])
        load_part(prompter, own, "frame_prompter.", self._part_of(own, frames, keep))
        return prompter

    def decoder(self, own: dict[str, Tensor], frames: int, keep: int, queries: int) -> Any:
        """A distillation decoder with the weights of a case's own, `dist_fc_bn.*`."""
        decoder = DistillDecoder(queries * keep, queries * frames)
        part = self._part_of(own, frames, keep, queries)
        load_part(decoder, own, "distill_decoder.", part)
        return decoder

    def _part_of(
        self, own: dict[str, Tensor], frames: int, keep: int, queries: int | None = None
    ) -> dict[str, Tensor]:
        """Those weights under our names, by hand or out of an imported whole student."""
        if self.imports:
            return self.imports.student_with(own, frames, keep, queries)
        return ours_from_reference(own)[0]

    def teacher(self) -> VlapTeacher:
        """The teacher on all frames with the recorded weights."""
        frames = self.config["frames_T"]
        teacher = VlapTeacher(self.backbone(), VlapConfig(frames=frames, keep=frames))
        if self.imports:
            self.imports.fill_teacher(teacher)
        else:
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

    def close(self, ours: Tensor, golden: Tensor, what: str) -> None:
        """At most 1e-5 apart anywhere."""
        assert ours.shape == golden.shape, what
        difference = (ours.detach().double() - golden.double()).abs().max().item()
        note_difference("VLAP", _READ_CASE["vlap"], self.way, difference)
        assert difference <= VALUE_TOLERANCE, f"{what}: {difference:.2e}"

    def gradient_close(
        self,
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
        note_difference("VLAP", f"{_READ_CASE['vlap']} gradients", self.way, difference)
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


def load_part(
    module: nn.Module, own: dict[str, Tensor], prefix: str, state: dict[str, Tensor]
) -> None:
    """What a whole state has below `prefix` into `module`; it is as many tensors as `own`."""
    part = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    assert len(part) == len(own) > 0
    module.load_state_dict(part, strict=True)


@pytest.fixture(scope="session")
def vlap_golden(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Golden:
    folder = golden_folder(*VLAP)
    if folder is None:
        pytest.skip("no golden data of VLAP: set VQA_GOLDEN_VLAP")
    torch.set_num_threads(1)
    golden = Golden(folder, complete="VQA_GOLDEN_VLAP" in os.environ)
    if getattr(request, "param", BY_HAND) == BY_HAND:
        return golden
    if math.isqrt(golden.config["vit_tokens"] - 1) ** 2 != golden.config["vit_tokens"] - 1:
        pytest.skip("no tower of square images gives this number of tokens, so no base has them")
    imports = golden_import.VlapImports(golden, tmp_path_factory.mktemp("imported-vlap"))
    return replace(golden, imports=imports)


@pytest.fixture
def find_golden() -> Callable[[str, str], Path | None]:
    """The search for a folder itself, for the test of its rules."""
    return golden_folder


# --- SeViLA --------------------------------------------------------------------------------------


class SevilaGolden(GoldenFolder):
    """SeViLA's cases: models in their sizes with the recorded weights, and comparisons."""

    @property
    def config(self) -> dict[str, Any]:
        return self.json("config")

    @cached_property
    def composite(self) -> dict[str, Any]:
        """The set's sizes as a composite `config.json`."""
        config, eps = self.config, self.config["layer_norm_eps"]
        vit, qformer = config["sizes"]["vit"], config["sizes"]["qf"]
        extra = config["t5_extra"]
        return {
            "model_type": "blip-2",
            "num_query_tokens": qformer["queries"],
            "vision_config": {
                "hidden_size": vit["width"],
                "image_size": vit["img"],
                "patch_size": vit["patch"],
                "num_hidden_layers": vit["depth"],
                "num_attention_heads": vit["heads"],
                "intermediate_size": config["vit_mlp_hidden"],
                "layer_norm_eps": eps["vit_blocks"],
            },
            "qformer_config": {
                "hidden_size": qformer["hidden"],
                "num_hidden_layers": qformer["layers"],
                "num_attention_heads": qformer["heads"],
                "intermediate_size": qformer["inter"],
                "cross_attention_frequency": qformer["cross_freq"],
                "layer_norm_eps": eps["qformer"],
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            "text_config": {
                **config["sizes"]["t5"],
                "feed_forward_proj": "gated-gelu",
                "dense_act_fn": "gelu",
                "dropout_rate": extra["dropout"],
                "layer_norm_epsilon": eps["t5"],
                "relative_attention_num_buckets": extra["relative_attention_num_buckets"],
                "relative_attention_max_distance": extra["relative_attention_max_distance"],
                "pad_token_id": config["pad_id"],
                "eos_token_id": config["eos_id"],
                "decoder_start_token_id": config["decoder_start_id"],
            },
        }

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The recorded weights under our names."""
        ours, unknown = sevila_from_reference(self.tensors("weights"))
        assert unknown == []
        return ours

    @cached_property
    def text(self) -> BackboneText:
        """The set's toy tokenizer as a real one."""
        note, config = self.json("toy_tokenizer"), self.config
        ids = {**note["words"], "<pad>": config["pad_id"], "</s>": config["eos_id"], "▁": 3}
        # Sets with fewer options than five do not name every letter.
        for letter in "ABCDE":
            ids.setdefault(letter, max(ids.values()) + 1)
        return BackboneText(toy_tokenizer(ids), None, vocabulary=len(ids))

    @property
    def answer_tokens(self) -> AnswerTokens:
        config = self.config
        option = self.json("toy_tokenizer")["words"]["Option"]
        letters = tuple(config["answer_id"][: config["answer_num"]])
        yes, no = config["yes_id"], config["no_id"]
        return AnswerTokens(option, letters, yes, no, config["eos_id"], config["pad_id"])

    def sevila(self, **changes: Any) -> Sevila:
        """Both sides and T5 with the recorded weights, in eval mode."""
        if self.imports:
            model: Sevila = self.imports.sevila(changes)
            model.backbone._answer_tokens = self.answer_tokens  # sets differ in their letters
            return model
        backbone = Blip2.from_config(
            self.composite, text=self.text, answer_tokens=self.answer_tokens
        )
        model = Sevila(backbone, SevilaConfig(**changes))
        own = model.state_dict()
        given = {
            name if name in own else f"backbone.{name}": value
            for name, value in self.weights.items()
            if not name.startswith("vision_model.")
        }
        model.load_state_dict(given, strict=True)
        return model.eval()

    def tower(self) -> VisionTower:
        """The vision tower with the recorded weights."""
        if self.imports:
            return self.imports.tower()
        config = vision_config(self.composite, "golden")
        model = Blip2VisionModel(config)
        start = "vision_model."
        given = {n.removeprefix(start): v for n, v in self.weights.items() if n.startswith(start)}
        missing, unexpected = model.load_state_dict(given, strict=False)
        assert unexpected == []
        assert missing == ["post_layernorm.weight", "post_layernorm.bias"]
        return VisionTower(model, vision_spec(config), "float32")

    def features(self, video: Tensor) -> Tensor:
        """Pixels [B, F, 3, H, W] -> features [B, F, N, C], before the last LayerNorm."""
        return self.tower().features(video.flatten(0, 1)).unflatten(0, video.shape[:2])

    @staticmethod
    def prompts(case: dict[str, Tensor], kind: str) -> PromptIds:
        """The recorded ids of a case; `kind` is qa or loc."""
        return PromptIds(case[f"{kind}_input_ids"], case[f"{kind}_attention_mask"])

    def close(
        self,
        case: str,
        ours: Tensor | None,
        golden: Tensor,
        what: str,
        limit: float = VALUE_TOLERANCE,
    ) -> None:
        """At most 1e-5 apart anywhere; the largest difference is kept for the table."""
        assert ours is not None, f"{what}: nothing to compare"
        assert ours.shape == golden.shape, what
        difference = (ours.detach().double() - golden.double()).abs().max().item()
        note_difference("SeViLA", case, self.way, difference)
        assert difference <= limit, f"{what}: {difference:.2e}"

    def gradients_close(self, model: Sevila, data: dict[str, Tensor], case: str) -> set[str]:
        """Compare every recorded gradient; names of the parameters that had one."""
        parameters = {
            name.removeprefix("backbone."): value for name, value in model.named_parameters()
        }
        compared = set()
        for name, value in data.items():
            if name.startswith("grad."):
                ours = sevila_from_reference_name(name.removeprefix("grad."))
                assert ours is not None
                self.close(f"{case} gradients", parameters[ours].grad, value, name)
                compared.add(ours)
        return compared


def toy_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """Words and single characters; a trailing space is a piece of its own, as in Flan-T5's."""
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Replace(Regex(" $"), " ▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[A-Za-z0-9']+|[^\sA-Za-z0-9']"), behavior="removed", invert=True
    )
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", padding_side="right"
    )


@pytest.fixture(scope="session")
def sevila_golden(request: pytest.FixtureRequest, tmp_path_factory: Any) -> SevilaGolden:
    folder = golden_folder(*SEVILA)
    if folder is None:
        pytest.skip("no golden data of SeViLA: set VQA_GOLDEN_SEVILA")
    torch.set_num_threads(1)
    golden = SevilaGolden(folder, complete="VQA_GOLDEN_SEVILA" in os.environ)
    if getattr(request, "param", BY_HAND) == BY_HAND:
        return golden
    imports = golden_import.SevilaImports(golden, tmp_path_factory.mktemp("imported-sevila"))
    return replace(golden, imports=imports)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of differences, if cases ran; also into a file, if one is named."""
    if not DIFFERENCES:
        return
    terminalreporter.section("largest absolute difference by case")
    for (system, case, way), difference in sorted(DIFFERENCES.items()):
        terminalreporter.write_line(f"{system:<8}{case:<24}{way:<10}{difference:.1e}")
    if file := os.environ.get(TABLE_VARIABLE):
        rows = [
            {"system": system, "case": case, "way": way, "difference": difference}
            for (system, case, way), difference in sorted(DIFFERENCES.items())
        ]
        Path(file).write_text(json.dumps(rows), encoding="utf-8")
