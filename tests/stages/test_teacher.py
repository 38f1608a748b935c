"""`vqa train-teacher`: settings, where they come from, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from stages.training.vlap import TauForward

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8")


@pytest.fixture(scope="module")
def train(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Runs `vqa train-teacher` with quick settings in one workspace of this file."""
    workspace = tiny_world.copy(tmp_path_factory.mktemp("teacher"))

    def run(*arguments: object, quick: bool = True) -> Any:
        settings = QUICK if quick else ()
        return vqa("train-teacher", "-b", "shapes", "-w", workspace, *settings, *arguments)

    return run


def config_of(outcome: Any) -> dict[str, Any]:
    assert outcome.code == 0, outcome.json
    manifest = json.loads((Path(outcome.json["artifact"]["path"]) / "manifest.json").read_text())
    return dict(manifest["config"])


def test_a_teacher_sees_all_stored_frames_and_says_what_it_read(train: Callable[..., Any]) -> None:
    outcome = train()
    config = config_of(outcome)
    assert (config["role"], config["model"]["frames"], config["model"]["keep"]) == ("teacher", 8, 8)
    assert len(outcome.json["inputs"]) == 4
    assert outcome.json["counts"] == {"total": 24, "done": 24, "failed": 0}
    assert outcome.json["training"]["forward_passes"] == 3


def test_the_backbone_folder_of_the_features_is_found_again(
    train: Callable[..., Any], tiny_world: Any
) -> None:
    """No --backbone: the folder that the features were made with, wherever it lies."""
    outcome = train("--name", "found")
    path = Path(outcome.json["artifact"]["path"]) / "manifest.json"
    assert json.loads(path.read_text())["host"]["backbone_folder"] == str(tiny_world.backbone)


def test_the_same_settings_are_reused_and_said_so(train: Callable[..., Any]) -> None:
    first, again = train("--seed", 3), train("--seed", 3)
    assert not first.json["reused"]
    assert again.json["reused"]
    assert first.json["artifact"] == again.json["artifact"]


def test_force_trains_again_to_the_same_bytes(train: Callable[..., Any]) -> None:
    path = Path(train("--seed", 4).json["artifact"]["path"]) / "weights.safetensors"
    before = path.read_bytes()
    outcome = train("--seed", 4, "--force")
    assert not outcome.json["reused"]
    assert path.read_bytes() == before


def test_a_dry_run_tells_what_it_would_do_and_writes_nothing(train: Callable[..., Any]) -> None:
    plan = train("--seed", 77, "--dry-run").json["plan"]
    assert (plan["questions"], plan["forward_passes"], plan["reused"]) == (24, 3, False)
    outcome = train("--seed", 77)
    assert not outcome.json["reused"]
    assert outcome.json["artifact"]["id"] == plan["artifact"]
    again = train("--seed", 77, "--dry-run").json["plan"]
    assert (again["reused"], again["forward_passes"]) == (True, 0)


def test_another_split_can_be_learnt_from(train: Callable[..., Any]) -> None:
    inputs = train("--split", "val").json["inputs"]
    assert len(inputs) == 2  # val is not tuned on as well
    assert all("-val-" in name for name in inputs)
    inputs = train("--split", "test").json["inputs"]
    assert sum("-test-" in name for name in inputs) == 2
    assert sum("-val-" in name for name in inputs) == 2


def test_a_start_keeps_k_frames_and_a_teacher_on_k_frames_is_a_teacher(
    train: Callable[..., Any],
) -> None:
    start = config_of(train("--keep", 2))
    assert (start["role"], start["model"]["keep"]) == ("start", 2)
    assert config_of(train("--frames", 4, "--keep", 4))["role"] == "teacher"


@pytest.mark.parametrize(
    ("preset", "network", "rule", "total"),
    [
        ("paper", {"teacher": "frozen", "eval_noise": False, "answer": "forced_prefix"}, "mean",
         "steps"),
        ("reference", {"teacher": "shared", "eval_noise": True, "restrict_options": False}, "sum",
         "epochs"),
    ],
)  # fmt: skip
def test_presets_are_spelled_out_in_the_config(
    preset: str, network: dict[str, Any], rule: str, total: str, train: Callable[..., Any]
) -> None:
    config = config_of(train("--preset", preset, "--answer", "letter"))
    assert network.items() <= config["model"].items()
    assert config["training"]["accumulate_rule"] == rule
    assert config["temperature"]["total"] == total


def test_what_is_set_stands_over_the_preset(train: Callable[..., Any]) -> None:
    config = config_of(
        train("--preset", "reference", "--answer", "letter", "--set", "model.eval_noise=false")
    )
    assert not config["model"]["eval_noise"]
    assert config["model"]["teacher"] == "shared"


def test_bfloat16_trains_float32_weights_on_a_cpu(train: Callable[..., Any]) -> None:
    outcome = train("--set", "training.precision=bfloat16")
    assert config_of(outcome)["training"]["precision"] == "bfloat16"
    weights = load_file(Path(outcome.json["artifact"]["path"]) / "weights.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"torch.float32"}
    assert all(value.isfinite().all() for value in weights.values())


def test_float16_on_a_cpu_is_refused_with_what_to_do(train: Callable[..., Any]) -> None:
    outcome = train("--set", "training.precision=float16", "--device", "cpu")
    assert outcome.code == 3
    assert "float16" in outcome.json["error"]["message"]
    assert "bfloat16" in outcome.json["error"]["hint"]


def test_adapters_are_trained_and_kept(train: Callable[..., Any]) -> None:
    pytest.importorskip("peft")
    outcome = train("--set", "model.lora={}")
    assert config_of(outcome)["model"]["lora"]["rank"] == 16
    weights = load_file(Path(outcome.json["artifact"]["path"]) / "weights.safetensors")
    adapters = [name for name in weights if "lora_" in name]
    assert adapters
    assert any(weights[name].abs().max() > 0 for name in adapters if "lora_B" in name)


def test_one_setting_of_the_adapters_can_be_chosen(train: Callable[..., Any]) -> None:
    pytest.importorskip("peft")
    config = config_of(train("--set", "model.lora.rank=2", "--set", 'model.lora.targets=["q"]'))
    assert (config["model"]["lora"]["rank"], config["model"]["lora"]["targets"]) == (2, ["q"])


@pytest.mark.parametrize(
    ("setting", "code", "named"),
    [
        ("model.nonsense=1", 3, "model.nonsense"),
        ("training.optimizer.nonsense=1", 3, "training.optimizer.nonsense"),
        ("nonsense=1", 3, "nonsense"),
        ("training.epochs=0", 3, "training.epochs"),
        ("training.clip_gradient=-1", 3, "training.clip_gradient"),
        ("training.schedule.init_lr=NaN", 3, "training.schedule.init_lr"),
        ("model.lora.rank=none", 3, "model.lora.rank"),
        ("model.teacher=mine", 3, "model.teacher"),
        ("model=3", 3, "model"),
        ("model.keep=2", 3, "model.keep"),
        ("model.frames=4", 3, "model.frames"),
        ("frames=many", 3, "frames"),
        ("keep=0", 3, "keep"),
        ("answer=maybe", 3, "answer"),
        ("preset=other", 2, "other"),
        ("training.epochs", 2, "key=value"),
        ("=3", 2, "key=value"),
        ("training.seed.deep=3", 2, "training.seed"),
    ],
)
def test_a_wrong_setting_is_named(
    setting: str, code: int, named: str, train: Callable[..., Any]
) -> None:
    arguments = ["--seed", 1] if "deep" in setting else []
    outcome = train("--set", setting, *arguments, quick=False)
    assert outcome.code == code, outcome.json
    assert outcome.json["error"]["code"] == code
    assert named in outcome.json["error"]["message"]


def test_kept_frames_must_divide_the_frames_seen(train: Callable[..., Any]) -> None:
    outcome = train("--keep", 3)
    assert outcome.code == 3
    message = outcome.json["error"]["message"]
    assert "3" in message
    assert "8" in message
    assert "divide" in message or "multiple" in message


def test_more_frames_than_are_stored_are_a_missing_input(train: Callable[..., Any]) -> None:
    outcome = train("--frames", 16)
    assert outcome.code == 4
    assert "extract-features" in outcome.json["error"]["hint"]


def test_features_of_another_backbone_are_not_found(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    outcome = train("--backbone", other)
    assert outcome.code == 4
    assert "by other" in outcome.json["error"]["message"]


def test_features_of_another_vision_tower_are_refused_even_under_the_same_name(
    train: Callable[..., Any], tiny_world: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_world.backbone, tmp_path / tiny_world.backbone.name))
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.startswith("vision_model."))
    state[name] = state[name] + 1
    save_file(state, folder / "model.safetensors")
    outcome = train("--backbone", folder)
    assert outcome.code == 3
    assert "another vision tower" in outcome.json["error"]["message"]


@pytest.mark.parametrize("failing_pass", [1, 3])
def test_a_loss_that_is_not_finite_stops_with_the_questions_and_keeps_the_state_before(
    failing_pass: int,
    train: Callable[..., Any],
    tiny_world: Any,
    vqa: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings = ("--set", "training.checkpoint_every=1", "--seed", 50)
    undisturbed = Path(train(*settings).json["artifact"]["path"]) / "weights.safetensors"
    line = ("train-teacher", "-b", "shapes", "-w", tiny_world.copy(tmp_path), *QUICK, *settings)
    honest, calls = TauForward.__call__, 0

    def spoiled(self: TauForward, model: Any, batch: Any, moment: Any) -> Any:
        nonlocal calls
        calls += 1
        output = honest(self, model, batch, moment)
        if calls == failing_pass:
            output.loss = output.loss * float("nan")
        return output

    with monkeypatch.context() as patch:
        patch.setattr(TauForward, "__call__", spoiled)
        outcome = vqa(*line)
    assert outcome.code == 3
    message = outcome.json["error"]["message"]
    assert f"the loss is nan in epoch 0, batch {failing_pass - 1};" in message
    assert len(message.split("questions: ")[1].split(", ")) == 8

    again = vqa(*line)
    assert (again.code, again.json["reused"]) == (0, False)
    folder = Path(again.json["artifact"]["path"])
    assert (folder / "weights.safetensors").read_bytes() == undisturbed.read_bytes()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["pass"] for line in lines] == [1, 2, 3, 3]
