"""Shipped recipes: every key is one that its command knows, every step a command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from stages.core.config import Config
from stages.core.errors import ConfigError
from stages.features import FeatureChoices
from stages.pseudo_labels import PseudoLabelConfig
from stages.recipes.recipe import load_recipe, recipe_names
from stages.systems.inputs import EvaluateConfig
from stages.training.sevila import AnswererConfig, LocalizerConfig
from stages.training.videodistill import VideoDistillStageConfig
from stages.training.vlap import VlapStageConfig
from stages.training.vlap_setup import with_preset
from stages.video.clips import SamplingConfig
from vqa_cli.main import app

STEPS = [
    pytest.param(name, step, id=f"{name}-{number}")
    for name in recipe_names()
    for number, step in enumerate(load_recipe(name).steps)
]


def known_sections() -> set[str]:
    root: Any = typer.main.get_command(app)
    return {"recipe", "step", *root.commands}


def sampling(values: dict[str, Any]) -> Config:
    return SamplingConfig.build(values, "recipe")


def features(values: dict[str, Any]) -> Config:
    choices = {key: values.pop(key) for key in FeatureChoices.model_fields if key in values}
    sampling(values)
    return FeatureChoices.build(choices, "recipe")


def training(values: dict[str, Any], role: str) -> Config:
    values = with_preset(values)
    frames = values.pop("frames", None) or 32
    values["model"] |= {"frames": frames, "keep": values.pop("keep", None) or frames}
    values.pop("init", None)
    given = {
        "role": role,
        "benchmark": "b",
        "backbone": "b",
        "backbone_weights": "b",
        "tokens": 5,
        "answer": "letter",
    }
    return VlapStageConfig.build({**given, **values}, "recipe")


def evaluation(values: dict[str, Any]) -> Config:
    given = {
        "benchmark": "b",
        "split": "s",
        "system": "vlap",
        "keep": 4,
        "frames": 32,
        "answer": "letter",
        "device": "cpu",
        "torch": "2.0",
        "backbone": "b",
        "backbone_weights": "b",
    }
    return EvaluateConfig.build({**given, **values}, "recipe")


def answerer(values: dict[str, Any]) -> Config:
    given = {"benchmark": "b", "backbone": "b", "backbone_weights": "b", "frames": 32, "keep": 4}
    return AnswererConfig.build(
        {**given, "answer": "letter", "eval_select": "localizer", **values}, "recipe"
    )


def localizer(values: dict[str, Any], trained_on: str) -> Config:
    given = {"benchmark": "b", "backbone": "b", "backbone_weights": "b", "frames": 75}
    return LocalizerConfig.build({**given, "trained_on": trained_on, **values}, "recipe")


def labels(values: dict[str, Any]) -> Config:
    given = {"benchmark": "b", "split": "s", "backbone": "b", "backbone_weights": "b"}
    made = {"answer": "letter", "frames": 32, "device": "cpu", "torch": "2.0"}
    return PseudoLabelConfig.build({**given, **made, **values}, "recipe")


def videodistill(values: dict[str, Any], role: str) -> Config:
    task = values.pop("task", "captions" if role == "pretrained" else "choice")
    frames = values.pop("frames", None) or 100
    model = {**values.pop("model", {}), "frames": frames, "keep": values.pop("keep", None) or 16}
    if task == "open-ended":
        model["answers"] = 10
    given = {"role": role, "benchmark": "b", "backbone": "b", "backbone_weights": "b"}
    made = {**given, "task": task, "model": model, **values}
    return VideoDistillStageConfig.build(made, "recipe")


SECTIONS: dict[str, Callable[[dict[str, Any]], Config]] = {
    "extract-frames": sampling,
    "extract-features": features,
    "train-teacher": lambda values: training(values, "teacher"),
    "distill": lambda values: training(values, "student"),
    "train-answerer": answerer,
    "train-localizer": lambda values: localizer(values, "spans"),
    "refine-localizer": lambda values: localizer(values, "pseudo-labels"),
    "pseudo-label": labels,
    "train-videodistill": lambda values: videodistill(values, "trained"),
    "pretrain-videodistill": lambda values: videodistill(values, "pretrained"),
    "eval": evaluation,
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_has_a_title_steps_and_known_sections(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.title != name
    assert recipe.steps
    assert set(recipe.values) <= known_sections()


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_of_a_recipe_is_one_of_its_commands(name: str) -> None:
    recipe = load_recipe(name)
    for section in set(recipe.values) - {"recipe", "step"}:
        SECTIONS[section](recipe.section(section))


def test_a_wrong_setting_would_be_found() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        SECTIONS["distill"]({"training": {"nonsense": 1}})


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_every_step_is_a_command_line_on_the_recipes_benchmark(name: str, step: list[str]) -> None:
    root: Any = typer.main.get_command(app)
    command, *arguments = step
    context = root.commands[command].make_context(command, list(arguments))
    assert context.params["benchmark"] == load_recipe(name).values["recipe"]["benchmark"]
    assert context.params.get("recipe") in (None, name)


@pytest.mark.parametrize("name", recipe_names())
def test_a_dry_run_prints_the_command_lines(
    name: str, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = vqa("run", name, "--dry-run", "-w", tmp_path)
    expected = [[*step, "--workspace", str(tmp_path)] for step in load_recipe(name).steps]
    assert [step["command"] for step in outcome.json["steps"]] == expected
    for step in outcome.json["steps"]:
        assert not step["note"].startswith("exit"), step
    assert outcome.json["steps"][0]["note"] != "needs the step before"
    assert not list(tmp_path.iterdir())


def test_a_dry_run_gives_sizes_and_costs_where_the_inputs_are_there(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = trained_world.copy(tmp_path)
    recipe = tmp_path / "mine.toml"
    backbone = str(trained_world.backbone)
    common = ["--benchmark", "shapes"]
    lines = [
        ["prepare", *common, "--split", "val"],
        ["extract-features", *common, "--backbone", backbone, "--from-videos", "--frames", "4"],
        ["distill", *common, "--keep", "2", "--set", "training.epochs=2"],
        ["eval", *common],
        ["eval", "--benchmark", "star"],
    ]
    recipe.write_text("".join(f"[[step]]\ncommand = {line}\n" for line in lines))
    before = sorted(workspace.rglob("*"))
    steps = vqa("run", recipe, "--dry-run", "-w", workspace).json["steps"]
    assert sorted(workspace.rglob("*")) == before
    assert steps[0]["plan"]["plan"]["videos"] > 8
    assert all(plan["bytes"] > 0 for plan in steps[1]["plan"]["plans"].values())
    assert steps[2]["plan"]["plan"]["forward_passes"] == 2 * (24 // 8)
    assert not steps[2]["plan"]["plan"]["reused"]
    assert steps[3]["plan"]["plan"]["questions"] == 24
    assert steps[4]["plan"] is None
    assert "no prepared questions of star" in steps[4]["note"], "no step prepares them"


def test_a_step_waits_for_the_step_that_makes_its_input(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    lines = [
        ["eval", "--benchmark", "star"],
        ["prepare", "--benchmark", "shapes", "--split", "val"],
        ["eval", "--benchmark", "shapes"],
        ["eval", "--benchmark", "star"],
    ]
    recipe.write_text("".join(f"[[step]]\ncommand = {line}\n" for line in lines))
    steps = vqa("run", recipe, "--dry-run", "-w", tmp_path / "none").json["steps"]
    notes = [step["note"] for step in steps]
    assert notes[2] == "needs the step before"
    assert notes[0] == notes[3]
    assert "vqa prepare --benchmark star" in notes[0]


@pytest.mark.parametrize("step", [["run", "vlap-star"], ["status", "--help"], ["bench", "cache"]])
def test_a_step_that_cannot_be_one_is_refused_before_the_first(
    step: list[str], vqa: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"[[step]]\ncommand = ['status']\n[[step]]\ncommand = {step}\n")
    outcome = vqa("run", recipe, "-w", tmp_path / "none")
    assert outcome.code == 3
    assert "step 2" in outcome.json["error"]["message"]


def test_a_recipe_of_ones_own_runs_and_stops_at_the_first_error(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = trained_world.copy(tmp_path)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "[recipe]\ntitle = 'Mine'\n"
        "[[step]]\n"
        "command = ['eval', '--benchmark', 'shapes', '--recipe', 'RECIPE', '--no-blind']\n"
        "[[step]]\ncommand = ['eval', '--benchmark', 'star']\n"
        "[[step]]\ncommand = ['status']\n"
        "[eval]\nseed = 5\n".replace("RECIPE", str(recipe))
    )
    outcome = vqa("run", recipe, "-w", workspace)
    assert outcome.code == 4
    assert "star" in outcome.json["error"]["message"]
    (evaluated,) = (workspace / "predictions").glob("*/manifest.json")
    assert json.loads(evaluated.read_text())["config"]["seed"] == 5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no [[step]]"),
        ("[step]\ncommand = ['status']\n", "step is not a list"),
        ("[[step]]\n", "step 1: no command"),
        ("[[step]]\ncommand = ['status']\n[[step]]\ncommand = 'status'\n", "step 2: no command"),
        ("step = ", "not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_before_its_first_step(
    text: str, named: str, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    outcome = vqa("run", recipe, "-w", tmp_path)
    assert outcome.code == 3
    assert named in outcome.json["error"]["message"]


def test_settings_that_are_no_group_are_refused(vqa: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("train-teacher = 3\n")
    outcome = vqa("train-teacher", "-b", "shapes", "-w", tmp_path, "--recipe", recipe)
    assert outcome.code == 3
    assert "train-teacher" in outcome.json["error"]["message"]


def test_a_step_with_too_many_failures_goes_on_and_is_not_forgotten(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """Exit 1 of a step: its artifact is usable, the run goes on and ends with 1 itself."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "bad.mp4").write_bytes(b"not a video")
    shutil.copy(next(tiny_world.workspace.glob("questions/*/**/*.mp4")), videos / "good.mp4")
    rows = [
        {"question_id": name, "video": f"{name}.mp4", "question": "what?", "options": ["a", "b"]}
        for name in ("bad", "good")
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare = ["prepare", "--benchmark", "custom", "--split", "test", "--workers", "1"]
    prepare += ["--annotations", str(tmp_path / "mine.jsonl"), "--videos", str(videos)]
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"[[step]]\ncommand = {prepare}\n[[step]]\ncommand = ['status']\n")
    outcome = vqa("run", recipe, "-w", tmp_path / "workspace")
    assert outcome.code == 1
    assert len(outcome.json["steps"]) == 2
