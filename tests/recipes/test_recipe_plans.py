"""`vqa run RECIPE --dry-run` where nothing is there yet: sizes, costs, what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.bench.estimate import Counts, Step, estimate, split_counts
from stages.bench.plan import probed_rate, step_splits
from stages.benchmarks.manifest import load_manifest
from stages.recipes.recipe import Recipe, load_recipe, recipe_names

STAR_TRAIN, STAR_VAL = 45_731, 7_098
ROW = 257 * 1408 * 2


def step_of(*line: str, **sections: Any) -> Step:
    return Step(Recipe("mine", {"step": [{"command": list(line)}], **sections}), line)


def test_a_plan_says_sizes_time_memory_and_what_is_missing(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = vqa("run", "vlap-star", "--dry-run", "-w", tmp_path)
    assert outcome.code == 0
    plan = outcome.json
    first, second, teacher, start, student, answered = [step["estimate"] for step in plan["steps"]]
    assert (first["items"], second["items"]) == (STAR_TRAIN, STAR_VAL)
    assert first["frames"] == STAR_TRAIN * 32
    assert first["bytes"] == STAR_TRAIN * 32 * ROW
    assert teacher["items"] == STAR_TRAIN
    assert answered["items"] == STAR_VAL
    # a teacher sees 32 frames forward and backward, a start 4
    assert teacher["operations"] > 4 * start["operations"]
    assert start["operations"] < student["operations"] < teacher["operations"]
    totals = plan["totals"]
    assert totals["bytes"] == first["bytes"] + second["bytes"]
    assert totals["seconds"] == pytest.approx(
        sum(step["estimate"]["seconds"] for step in plan["steps"]), rel=1e-6
    )
    assert min(totals["free_bytes"], totals["machine_memory_bytes"]) > 0
    # Flan-T5-XL in half precision alone is 5.7 GB
    assert totals["memory_bytes"] > 5.7e9
    missing = {item["what"]: item["hint"] for item in plan["missing"]}
    assert (
        "vqa prepare --benchmark star --split train"
        in missing["questions and videos of star train"]
    )
    assert "STAR_{train,val,test}.json" in missing["questions and videos of star val"]
    assert "hf download" in missing["backbone instructblip-flan-t5-xl"]
    assert plan["published"][0]["figures"]["val/Avg"] == 67.1
    assert any("32 -> 4" in text for text in plan["unknown"])
    assert not list(tmp_path.iterdir())


def test_weights_of_another_recipe_are_missing_and_it_is_named(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    plan = vqa("run", "sevila-how2qa-frames", "--dry-run", "-w", tmp_path).json
    missing = {item["what"]: item["hint"] for item in plan["missing"]}
    assert missing["weights qvhighlights-localizer"] == "vqa run sevila-qvhighlights"


def test_a_plan_for_people_has_a_line_a_step_and_the_sums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqa_cli.main import run_command

    assert run_command(["run", "vlap-how2qa-2", "--dry-run", "-w", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "34,187 clips" in shown.out
    assert "distill" in shown.out
    assert "missing: backbone instructblip-flan-t5-xl" in shown.err
    assert "GFLOP/s" in shown.err
    assert "unknown: the pool T" in shown.err


def test_what_is_there_is_not_missing(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    backbone = str(trained_world.backbone)
    extract = ["extract-features", "--benchmark", "shapes", "--backbone", backbone]
    extract += ["--from-videos", "--frames", "4"]
    evaluate = ["eval", "--benchmark", "shapes", "--weights", "shapes-vlap-student-2of8"]
    recipe.write_text(f"[[step]]\ncommand = {extract}\n[[step]]\ncommand = {evaluate}\n")
    plan = vqa("run", recipe, "--dry-run", "-w", trained_world.workspace).json
    missing = [item["what"] for item in plan["missing"]]
    assert missing in ([], ["weights shapes-vlap-student-2of8"])
    # 8 prepared videos a split in place of what the manifest expects
    assert plan["steps"][1]["estimate"]["items"] == 24


def test_splits_are_those_that_a_command_works_on() -> None:
    manifest = load_manifest("qvhighlights")
    assert step_splits(step_of("extract-features"), manifest) == ["train", "val", "test"]
    assert step_splits(step_of("train-localizer"), manifest) == ["train"]
    assert step_splits(step_of("eval"), manifest) == ["test"]
    assert step_splits(step_of("eval", "--split", "val"), manifest) == ["val"]


def test_counts_are_known_for_all_splits_or_not_at_all() -> None:
    nextqa, msrvtt = load_manifest("nextqa"), load_manifest("egotaskqa")
    assert split_counts(nextqa, ["train", "val"], {}) == Counts(34_132 + 4_996, 3_870 + 570)
    assert split_counts(nextqa, ["val"], {"val": 10}) == Counts(10, 570)
    assert split_counts(msrvtt, ["train"], {}) == Counts(None, None)


def test_frames_and_keep_are_read_from_wherever_they_are_said() -> None:
    assert step_of("distill", "--frames", "8", "--keep", "4").frames == 8
    assert step_of("distill", "--keep", "4").keep == 4
    assert step_of("eval", "--features", "star-val-16f-instructblip").frames == 16
    assert step_of("train-teacher").frames == 32
    assert step_of("extract-features", **{"extract-features": {"frames": [4, 64]}}).frames == 64
    assert step_of("eval", "--sweep", "frames=8,16 keep=1,2,4").runs[5].keep == 4
    assert len(step_of("eval", "--sweep", "frames=8,16 keep=1,2,4").runs) == 6
    assert step_of("distill", "--set", "training.epochs=3").whole("training.epochs", 10) == 3
    nested = {"distill": {"training": {"epochs": 5}}}
    assert step_of("distill", **nested).whole("training.epochs", 10) == 5


def test_twice_the_videos_take_twice_as_long() -> None:
    line = ("extract-features", "--backbone", "instructblip-flan-t5-xl", "--frames", "32")
    one = estimate(step_of(*line), Counts(10, 10), 1e12)
    two = estimate(step_of(*line), Counts(20, 20), 1e12)
    none = estimate(step_of(*line), Counts(None, None), 1e12)
    assert one.seconds is not None
    assert two.seconds == pytest.approx(2 * one.seconds, abs=0.2)
    assert (two.bytes, none.bytes, none.seconds) == (2 * (one.bytes or 0), None, None)
    # 520.7 GF a frame at half of 1 TFLOP/s
    assert one.seconds == pytest.approx(320 * 0.5207 / 0.5, abs=0.2)


@pytest.mark.parametrize("name", recipe_names())
def test_every_step_of_every_recipe_is_estimated(name: str) -> None:
    recipe = load_recipe(name)
    for line in recipe.steps:
        if line[0] == "prepare":
            continue
        step = Step(recipe, line)
        found = estimate(step, Counts(100, 100), 1e12, Counts(100, 100))
        assert found.operations or line[0] == "extract-frames", line
        assert found.seconds is not None


TRAIN = ("train-videodistill", "--backbone", "tiny-clip", "--recipe", "mine")


def operations_of(*line: str, reported: Counts | None = None, **sections: Any) -> int:
    found = estimate(step_of(*line, **sections), Counts(10, 10), 1e12, reported)
    assert found.operations is not None
    return found.operations


def test_a_sweep_is_the_sum_of_its_combinations() -> None:
    swept = operations_of(*TRAIN, "--sweep", "keep=1,4 variant=a,f")
    each = [
        operations_of(*TRAIN, "--keep", keep, "--variant", variant)
        for keep in ("1", "4")
        for variant in ("a", "f")
    ]
    assert len(set(each)) == 4
    assert swept == sum(each)
    layers = [operations_of(*TRAIN, "--set", f"model.layers={n}") for n in (1, 3)]
    assert operations_of(*TRAIN, "--sweep", "model.layers=1,3") == sum(layers)


def test_answers_of_a_sweep_are_counted_and_those_without_the_video_as_well() -> None:
    swept = (*TRAIN, "--sweep", "keep=1,4")
    known = Counts(5, 5)
    trained = operations_of(*swept)
    answered = operations_of(*swept, "--evaluate", reported=known) - trained
    assert answered > 0
    blind = operations_of(*swept, "--evaluate", "--blind", "gaussian", reported=known) - trained
    assert blind == 2 * answered


def test_a_trained_network_answers_in_the_size_that_it_was_trained_in() -> None:
    line = ("eval", "--backbone", "tiny-clip", "--system", "videodistill")
    small = {"train-videodistill": {"keep": 2, "model": {"width": 32, "layers": 1}}}
    assert operations_of(*line, **small) < operations_of(*line) / 100


def test_only_a_localizer_costs_what_a_localizer_costs() -> None:
    line = ("eval", "--backbone", "tiny-blip2", "--system", "sevila", "--keep", "4")
    default, uniform = operations_of(*line), operations_of(*line, "--select", "uniform")
    assert operations_of(*line, "--select", "localizer") == default
    assert operations_of(*line, "--select", "oracle") == uniform < default


FAULTY = {
    "frames": ("extract-features --benchmark shapes --backbone tiny --frames abc", "", "frames"),
    "epochs": (
        "train-teacher --benchmark shapes --backbone tiny",
        '[train-teacher.training]\nepochs = "many"\n',
        "training.epochs",
    ),
    "dtype": ("extract-features --benchmark shapes --backbone tiny --dtype float64", "", "float64"),
    "model": (
        "train-videodistill --benchmark shapes --backbone tiny-clip",
        "[train-videodistill.model]\nnothing = 3\n",
        "nothing",
    ),
    "group": (
        "train-videodistill --benchmark shapes --backbone tiny-clip",
        "[train-videodistill]\nmodel = 3\n",
        "model",
    ),
    "sweep": ("eval --benchmark shapes --backbone tiny --sweep keep", "", "sweep"),
    "recipe": ("eval --benchmark shapes --seed {seed}", "recipe = 5\n", "recipe"),
    "help": ("eval --help", "", "--help"),
    "run": ("run RECIPE", "", "run"),
    "bench": ("bench decode", "", "bench"),
    "benchmark": ("eval --benchmark nothing-here", "", "nothing-here"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_recipe_is_explained(fault: str, vqa: Callable[..., Any], tmp_path: Path) -> None:
    line, settings, named = FAULTY[fault]
    recipe = tmp_path / "mine.toml"
    command = line.replace("RECIPE", str(recipe)).split()
    step = f"[[step]]\ncommand = {command}\n"
    recipe.write_text(settings + step if settings.startswith("recipe") else step + settings)
    outcome = vqa("run", recipe, "--dry-run", "-w", tmp_path / "none")
    assert outcome.code in (2, 3), outcome.json
    assert named in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    "line",
    [
        ["eval", "--benchmark=star", "--keep=4"],
        ["eval", "-b", "star", "--keep", "4"],
        ["eval", "-bstar", "--keep", "4", "-w", "elsewhere"],
    ],
)
def test_options_may_be_written_in_every_form(line: list[str]) -> None:
    (read,) = Recipe("mine", {"step": [{"command": line}]}).steps
    assert read[:5] == ["eval", "--benchmark", "star", "--keep", "4"]
    assert read[5:] in ([], ["--workspace", "elsewhere"])


def test_generated_questions_are_counted_before_they_are_there(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    lines = [
        ["prepare", "--benchmark", "shapes", "--split", "val", "--size", "7"],
        ["extract-features", "--benchmark", "shapes", "--backbone", "tiny", "--from-videos"],
        ["train-teacher", "--benchmark", "shapes"],
    ]
    recipe.write_text("".join(f"[[step]]\ncommand = {line}\n" for line in lines))
    plan = vqa("run", recipe, "--dry-run", "-w", tmp_path / "none").json
    _, extracted, trained = [step["estimate"] for step in plan["steps"]]
    assert (extracted["items"], trained["items"]) == (400 + 7 + 200, 3 * 400)
    assert plan["totals"]["steps_without_counts"] == 0
    assert plan["totals"]["seconds"] is not None


def test_a_sum_of_nothing_known_is_unknown(
    tmp_path: Path, vqa: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from vqa_cli.main import run_command

    recipe = tmp_path / "mine.toml"
    lines = [
        ["extract-features", "--benchmark", "egotaskqa", "--backbone", "tiny"],
        ["status"],
    ]
    recipe.write_text("".join(f"[[step]]\ncommand = {line}\n" for line in lines))
    totals = vqa("run", recipe, "--dry-run", "-w", tmp_path / "none").json["totals"]
    assert (totals["bytes"], totals["seconds"], totals["operations"]) == (None, None, None)
    assert totals["steps_without_counts"] == 1
    assert run_command(["run", str(recipe), "--dry-run", "-w", str(tmp_path / "none")]) == 0
    assert "unknown of computing" in " ".join(capsys.readouterr().err.split())


def test_the_probe_is_made_once() -> None:
    assert probed_rate("cpu") == probed_rate("cpu") > 1e8
