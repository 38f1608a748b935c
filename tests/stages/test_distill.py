"""`vqa distill`: the options of VLAP's students, and where they start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=12")


@pytest.fixture(scope="module")
def workspace(trained_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = trained_world.copy(tmp_path_factory.mktemp("distill"))
    return path


@pytest.fixture(scope="module")
def distil(workspace: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `vqa distill` with quick settings in this file's workspace."""

    def run(*arguments: object) -> Any:
        return vqa("distill", "-b", "shapes", "-w", workspace, *QUICK, *arguments)

    return run


def config_of(outcome: Any) -> dict[str, Any]:
    assert outcome.code == 0, outcome.json
    return dict(manifest_of(outcome)["config"])


def manifest_of(outcome: Any) -> dict[str, Any]:
    path = Path(outcome.json["artifact"]["path"]) / "manifest.json"
    return dict(json.loads(path.read_text()))


def starts_of(outcome: Any) -> dict[str, str]:
    """Role to id of what the student was made from."""
    assert outcome.code == 0, outcome.json
    return {item["role"]: item["id"] for item in manifest_of(outcome)["inputs"]}


def losses_of(outcome: Any) -> dict[str, float]:
    path = Path(outcome.json["artifact"]["path"]) / "metrics.jsonl"
    return dict(json.loads(path.read_text().splitlines()[0]))


# --- where a student starts ----------------------------------------------------------------------


def test_a_student_starts_from_the_start_of_its_own_k(distil: Callable[..., Any]) -> None:
    made_from = starts_of(distil("--keep", 2))
    assert "-start-2f-" in made_from["start"]
    assert "-teacher-8f-" in made_from["teacher"]


def test_without_such_a_start_it_starts_from_the_teacher(distil: Callable[..., Any]) -> None:
    made_from = starts_of(distil("--keep", 4))
    assert made_from["start"] == made_from["teacher"]


def test_it_can_start_from_the_backbone(distil: Callable[..., Any]) -> None:
    made_from = starts_of(distil("--keep", 2, "--init", "base"))
    assert "start" not in made_from
    assert "teacher" in made_from


def test_a_start_that_is_asked_for_and_absent_is_a_missing_input(
    distil: Callable[..., Any],
) -> None:
    outcome = distil("--keep", 4, "--init", "start")
    assert outcome.code == 4
    assert outcome.json["error"]["hint"] == "vqa train-teacher --benchmark shapes --keep 4"


def test_a_start_and_the_backbone_cannot_both_be_asked_for(distil: Callable[..., Any]) -> None:
    outcome = distil("--keep", 2, "--init", "base", "--weights", "shapes-vlap-start-2f")
    assert outcome.code == 2
    assert "--init base" in outcome.json["error"]["message"]


def test_named_weights_have_the_role_that_is_asked_for(distil: Callable[..., Any]) -> None:
    outcome = distil("--keep", 2, "--init", "teacher", "--weights", "shapes-vlap-start-2f")
    assert outcome.code == 2
    assert "teacher" in outcome.json["error"]["message"]


def test_weights_of_another_backbone_or_t_do_not_compete(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """A second teacher and start, of 4 frames and then of another backbone, are passed over."""
    workspace = trained_world.copy(tmp_path)
    common = ("-b", "shapes", "-w", workspace, *QUICK)
    expected = starts_of(vqa("distill", *common, "--keep", 2))
    backbone = Path(shutil.copytree(trained_world.backbone, tmp_path / "my other"))
    stored = ("--from-videos", "--frames", 8, "--workers", 1, "--backbone", backbone)
    made = vqa("extract-features", "-b", "shapes", "-w", workspace, *stored)
    assert made.code == 0, made.json
    assert "my-other" in made.json["artifact"]["id"]
    for extra in (("--frames", 4), ("--backbone", backbone)):
        for role in ((), ("--keep", 2)):
            frames = ("--backbone", trained_world.backbone) if "--frames" in extra else ()
            outcome = vqa("train-teacher", *common, *extra, *frames, *role)
            assert outcome.code == 0, outcome.json
    chosen = ("--backbone", trained_world.backbone, "--keep", 2, "--force")
    again = starts_of(vqa("distill", *common, *chosen))
    assert {role: again[role] for role in ("teacher", "start")} == {
        role: expected[role] for role in ("teacher", "start")
    }
    other = starts_of(vqa("distill", *common, "--keep", 2, "--backbone", backbone))
    assert other["start"] != expected["start"]
    assert other["teacher"] != expected["teacher"]
    evaluated = vqa("eval", "-b", "shapes", "-w", workspace, "--backbone", backbone)
    assert evaluated.code == 0, evaluated.json
    assert sum("my-other" in name for name in evaluated.json["inputs"]) == 1


def test_a_dry_run_of_a_student_writes_nothing(distil: Callable[..., Any], workspace: Path) -> None:
    before = sorted(workspace.rglob("*"))
    plan = distil("--keep", 2, "--seed", 99, "--dry-run").json["plan"]
    assert sorted(workspace.rglob("*")) == before
    assert (plan["questions"], plan["epochs"], plan["forward_passes"]) == (24, 1, 2)
    assert not plan["reused"]
    outcome = distil("--keep", 2, "--seed", 99)
    assert outcome.json["artifact"]["id"] == plan["artifact"]
    assert outcome.json["training"]["forward_passes"] == plan["forward_passes"]
    assert set(outcome.json["inputs"]) == set(plan["inputs"])


def test_two_teachers_are_an_ambiguous_choice_with_a_list(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = trained_world.copy(tmp_path)
    common = ("-b", "shapes", "-w", workspace, *QUICK)
    second = vqa("train-teacher", *common, "--seed", 9)
    outcome = vqa("distill", *common, "--keep", 2)
    assert outcome.code == 2
    assert outcome.json["error"]["message"].count("shapes-vlap-teacher-8f-") == 2
    assert "--teacher" in outcome.json["error"]["hint"]
    assert (
        vqa("distill", *common, "--keep", 2, "--teacher", second.json["artifact"]["id"]).code == 0
    )


# --- every option of the network -----------------------------------------------------------------

OPTIONS = [
    ("model.prompter", "visual"),
    ("model.prompter", "question"),
    ("model.prompter", "uniform_mid"),
    ("model.prompter", "random_segment"),
    ("model.select", "soft"),
    ("model.eval_noise", True),
    ("temperature.start", 0.5),
    ("temperature.end", 0.02),
    ("temperature.total", "epochs"),
    ("temperature.epochs", 20),
    ("model.teacher", "shared"),
    ("model.teacher", "none"),
    ("model.teacher_mode", "train"),
    ("model.distill", "fc"),
    ("model.distill", "fc_ln"),
    ("model.distill", "fc_ln_fc"),
    ("model.distill", "token_mean"),
    ("model.distill_weight", 0.1),
    ("model.distill_space", "qformer"),
    ("model.relevance_weight", 0.5),
    ("model.train_ln_vision", False),
    ("model.answer", "generate"),
    ("model.restrict_options", False),
    ("model.frame_prefix_text", True),
    ("model.rank_norm", "mean"),
    ("training.accumulate_rule", "sum"),
    ("training.clip_gradient", 1.0),
    ("training.precision", "bfloat16"),
    ("training.schedule.kind", "step_cosine"),
]


@pytest.mark.parametrize(("key", "value"), OPTIONS)
def test_an_option_is_reached_by_set_and_trains(
    key: str, value: Any, distil: Callable[..., Any]
) -> None:
    """Letter mode, so that the options about letters are at work when the tune split is scored."""
    text = value if isinstance(value, str) else json.dumps(value)
    outcome = distil("--keep", 2, "--answer", "letter", "--set", f"{key}={text}")
    config: Any = config_of(outcome)
    for part in key.split("."):
        config = config[part]
    assert config == value
    weights = load_file(Path(outcome.json["artifact"]["path"]) / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_presets_train(preset: str, distil: Callable[..., Any]) -> None:
    config = config_of(distil("--keep", 2, "--preset", preset, "--answer", "letter"))
    assert config["model"]["teacher"] == {"paper": "frozen", "reference": "shared"}[preset]
    assert config["model"]["teacher_mode"] == {"paper": "eval", "reference": "train"}[preset]


@pytest.mark.parametrize("keep", [1, 2, 4])
@pytest.mark.parametrize("frames", [4, 8])
def test_any_k_that_divides_t_trains(keep: int, frames: int, distil: Callable[..., Any]) -> None:
    """A student of T frames takes its targets from a teacher of more frames' weights as well."""
    outcome = distil("--frames", frames, "--keep", keep, "--init", "teacher", "--seed", 3)
    config = config_of(outcome)["model"]
    assert (config["frames"], config["keep"]) == (frames, keep)


def test_k_that_does_not_divide_t_is_refused_with_both_numbers(distil: Callable[..., Any]) -> None:
    outcome = distil("--keep", 3)
    assert outcome.code == 3
    assert "3" in outcome.json["error"]["message"]
    assert "8" in outcome.json["error"]["message"]


# --- Table 4 and Table 5 -------------------------------------------------------------------------

ABLATIONS = {
    "base": ("--prompter", "uniform_mid", "--set", "model.teacher=none"),
    "+QFD": ("--prompter", "uniform_mid"),
    "+QFD+FP": ("--prompter", "visual"),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_train_with_the_losses_that_they_should_have(
    name: str, distil: Callable[..., Any]
) -> None:
    outcome = distil("--keep", 2, "--seed", 5, *ABLATIONS[name])
    assert outcome.code == 0, outcome.json
    assert (losses_of(outcome)["distill_loss"] > 0) == (name != "base")
    learns_to_choose = outcome.json["training"]["parameters"].get("frame_prompter", 0) > 0
    assert learns_to_choose == (name == "+QFD+FP")


def test_the_base_ablation_needs_no_teacher(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = tiny_world.copy(tmp_path)
    line = ("distill", "-b", "shapes", "-w", workspace, *QUICK, "--keep", 2, "--init", "base")
    assert vqa(*line, "--prompter", "uniform_mid").code == 4
    outcome = vqa(*line, *ABLATIONS["base"])
    assert outcome.code == 0, outcome.json


# --- kept targets --------------------------------------------------------------------------------


def test_kept_teacher_targets_change_nothing(distil: Callable[..., Any]) -> None:
    line = ("--keep", 2, "--set", "model.train_ln_vision=false", "--seed", 6)
    computed = distil(*line)
    kept = distil(*line, "--set", "cache_teacher_targets=true")
    for name in ("task_loss", "distill_loss"):
        assert losses_of(kept)[name] == pytest.approx(losses_of(computed)[name], rel=1e-5)


def test_kept_targets_are_refused_where_they_would_change(distil: Callable[..., Any]) -> None:
    outcome = distil("--keep", 2, "--set", "cache_teacher_targets=true")
    assert outcome.code == 3
    assert "train_ln_vision=false" in outcome.json["error"]["message"]


def test_the_number_of_kept_frames_has_to_be_said(distil: Callable[..., Any]) -> None:
    outcome = distil()
    assert outcome.code == 2
    assert "--keep" in outcome.json["error"]["message"]
