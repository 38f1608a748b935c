"""`vqa eval` on moments: from val, where the gap is tuned, to an official file for test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.shapes.generate import generate
from vqa_cli.main import run_command

FRAMES = 10
SECONDS = 12


def annotations(folder: Path, split: str, *, labelled: bool = True) -> Path:
    """Generated videos and their queries in QVHighlights' form."""
    rows = []
    for number, record in enumerate(generate(folder, split, 2, seed=4, workers=1), 1):
        low, high = record["spans"][0]
        window = [min(SECONDS - 2, math.floor(low)), min(SECONDS, math.ceil(high))]
        row = {
            "qid": number,
            "query": record["question"],
            "duration": SECONDS,
            "vid": Path(record["video"]).stem,
        }
        rows.append(row | ({"relevant_windows": [window]} if labelled else {}))
    path = folder / f"{split}-{labelled}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("eval-moments")


@pytest.fixture(scope="module")
def command(folder: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a command on the module's workspace: val and test with labels, stored features."""
    common = ("-b", "qvhighlights", "-w", folder / "workspace")

    def run(name: str, *arguments: object) -> Any:
        return vqa(name, *common, *arguments)

    for split in ("val", "test"):
        made = run(
            "prepare", "--split", split, "--workers", 1, "--videos", folder / split,
            "--annotations", annotations(folder, split),
        )  # fmt: skip
        assert made.code == 0, made.json
    frames = ("--from-videos", "--frames", FRAMES, "--workers", 1)
    assert run("extract-features", "--backbone", "tiny", *frames).code == 0
    return run


@pytest.fixture(scope="module")
def evaluate(command: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: object) -> Any:
        return command("eval", "--system", "sevila", *arguments)

    return run


def test_the_reported_split_wants_a_gap_and_says_where_it_comes_from(
    evaluate: Callable[..., Any],
) -> None:
    refused = evaluate()
    assert refused.code == 2
    assert "gap" in refused.json["error"]["message"]
    assert "--split val --tune-gap" in refused.json["error"]["hint"]

    given = evaluate("--set", "moments.gap=3")
    assert given.code == 0, given.json
    assert given.json["moments"] == {"gap": 3.0, "gap_from": "given"}

    tuned = evaluate("--split", "val", "--tune-gap", "--set", "tuning.gaps=[0,1,2,5]")
    assert tuned.code == 0, tuned.json
    taken = evaluate()
    assert taken.code == 0, taken.json
    assert taken.json["moments"]["gap"] == tuned.json["moments"]["gap"]
    assert taken.json["moments"]["gap_from"] == tuned.json["artifact"]["id"]

    # another rule for spans is another tuning
    other = evaluate("--set", "moments.several=true")
    assert other.code == 2


def test_val_without_a_tuned_gap_takes_the_default(evaluate: Callable[..., Any]) -> None:
    outcome = evaluate("--split", "val", "--set", "moments.score=max")
    assert outcome.json["moments"] == {"gap": 6.0, "gap_from": "default"}


def test_the_json_has_the_documented_names(evaluate: Callable[..., Any]) -> None:
    outcome = evaluate("--set", "moments.gap=3")
    assert {"benchmark", "split", "system", "n_questions", "n_scored"} <= set(outcome.json)
    assert outcome.json["split"] == "test"
    names = {"R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "ranges", "ci95"}
    assert names <= set(outcome.json["metrics"])
    assert {"frame_accuracy", "frame_accuracy_constant"} <= set(outcome.json["metrics"])
    assert outcome.json["ci95_of"] == "R1@0.5"


def test_the_official_file_scores_the_same(
    evaluate: Callable[..., Any], command: Callable[..., Any], folder: Path
) -> None:
    several = ("--set", "moments.several=true", "--set", "moments.gap=1")
    path = folder / "out" / "test.jsonl"
    evaluated = evaluate(*several, "--export", "official", "--export-to", path)
    assert evaluated.json["export"] == str(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["qid"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(len(line["pred_saliency_scores"]) == SECONDS // 2 for line in lines)
    scored = command("score", "-p", path, "-a", folder / "test-True.jsonl", "--split", "test")
    assert scored.code == 0, scored.json
    own = evaluated.json["metrics"]
    assert scored.json["metrics"] == {name: own[name] for name in scored.json["metrics"]}
    assert scored.json["ci95_of"] == evaluated.json["ci95_of"]


def test_an_evaluation_is_scored_and_compared_like_a_file(
    evaluate: Callable[..., Any], vqa: Callable[..., Any], command: Callable[..., Any], folder: Path
) -> None:
    one = evaluate("--set", "moments.gap=3").json
    other = evaluate("--set", "moments.gap=1", "--set", "moments.several=true").json
    scored = command("score", "-p", one["artifact"]["id"])
    assert scored.code == 0, scored.json
    own = scored.json["metrics"]
    assert own == {name: one["metrics"][name] for name in own}
    for pair in ((one, other), (one, scored.json)):
        ids = [side["artifact"]["path"] for side in pair]
        found = vqa("compare", *ids, "-w", folder / "workspace")
        assert found.code == 0, found.json
        assert found.json["measure"] == "R1@0.5"
        assert found.json["n_common"] == one["n_scored"]
        assert found.json["a"]["R1@0.5"] == pytest.approx(one["metrics"]["R1@0.5"])


def test_a_plan_says_whether_frames_have_to_be_scored(evaluate: Callable[..., Any]) -> None:
    fresh = evaluate("--set", "moments.gap=4", "--frames", 5, "--dry-run")
    assert fresh.json["plan"]["frames_scored"] == 6 * 5
    evaluate("--set", "moments.gap=3", "--frames", 5)
    known = evaluate("--set", "moments.gap=4", "--frames", 5, "--dry-run")
    assert known.json["plan"]["frames_scored"] == 0
    assert not known.json["plan"]["reused"]


def test_people_see_every_gap_and_the_figures(
    folder: Path, evaluate: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["eval", "-b", "qvhighlights", "-w", str(folder / "workspace"), "--system", "sevila"]
    assert run_command([*line, "--split", "val", "--tune-gap"]) == 0
    shown = capsys.readouterr()
    assert "on this very split" in shown.err
    for name in ("gap", "R1@0.5", "R1@0.7", "mAP", "frame_accuracy", "95 % interval"):
        assert name in shown.out


def test_unlabelled_queries_get_a_file_and_no_figures(
    folder: Path, vqa: Callable[..., Any]
) -> None:
    workspace = ("-b", "qvhighlights", "-w", folder / "unlabelled")
    made = annotations(folder, "test", labelled=False)
    vqa("prepare", *workspace, "--split", "test", "-a", made, "--videos", folder / "test")
    vqa("extract-features", *workspace, "--backbone", "tiny", "--from-videos", "--frames", 4)
    path = folder / "submission.jsonl"
    outcome = vqa(
        "eval", *workspace, "--system", "sevila", "--set", "moments.gap=2",
        "--export", "official", "--export-to", path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.json
    assert outcome.json["metrics"] == {}
    assert outcome.json["n_unlabelled"] == 6
    assert all(json.loads(line)["pred_relevant_windows"] for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--system", "vlap"), "--system"),
        (("--system", "sevila", "--select", "uniform"), "--select"),
        (("--system", "sevila", "--keep", 4), "--keep"),
        (("--system", "sevila", "--sweep", "frames=4,8"), "--sweep"),
        (("--system", "sevila", "--blind", "gaussian"), "--blind"),
        (("--system", "sevila", "--tune-gap"), "tune"),
        (("--system", "sevila", "--split", "val", "--tune-gap", "--set", "moments.gap=1"), "gap"),
    ],
)
def test_what_has_no_meaning_is_refused(
    arguments: tuple[object, ...], named: str, command: Callable[..., Any]
) -> None:
    outcome = command("eval", *arguments)
    assert outcome.code == 2
    assert named in outcome.json["error"]["message"]


def test_a_wrong_setting_is_named(evaluate: Callable[..., Any]) -> None:
    outcome = evaluate("--set", "moments.gap=-1")
    assert outcome.code == 3
    assert "moments.gap" in outcome.json["error"]["message"]


def test_a_gap_is_not_tuned_where_nothing_is_asked_for_moments(vqa: Callable[..., Any]) -> None:
    outcome = vqa("eval", "-b", "shapes", "--system", "sevila", "--tune-gap")
    assert outcome.code == 2
    assert "--tune-gap" in outcome.json["error"]["message"]
