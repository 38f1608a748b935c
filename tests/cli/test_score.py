"""`vqa score`: what it prints, writes and refuses, on small files of our own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.artifacts.store import Workspace
from stages.benchmarks.scorers.retrieval import TieRule
from vqa_cli.main import run_command
from vqa_cli.score import TIES

TYPES = ("CW", "TN", "DL")
FIELDS = {
    "command", "artifact", "reused", "counts", "inputs", "seconds", "next", "benchmark", "split",
    "system", "n_questions", "n_scored", "n_failed", "n_unlabelled", "metrics", "ci95_of", "scorer",
}  # fmt: skip


def nextqa_csv(folder: Path, count: int = 12, labelled: bool = True) -> Path:
    """NExT-QA annotations of our own: two questions a video, the right option is number % 5."""
    rows = ["video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"]
    for number in range(count):
        answer = str(number % 5) if labelled else ""
        rows.append(
            f"{1000 + number // 2},90,640,360,what is it {number},{answer},{number % 2},"
            f"{TYPES[number % 3]},a,b,c,d,e"
        )
    path = folder / "val.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def answered(count: int = 12, wrong: int = 3) -> dict[str, Any]:
    return {
        f"{1000 + n // 2}_{n % 2}": {"prediction": (n + (n < wrong)) % 5, "answer": n % 5}
        for n in range(count)
    }


def saved(folder: Path, value: Any, name: str = "system.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def score(tmp_path: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """`vqa score` of NExT-QA val in this test's workspace."""

    def run(predictions: Path, *arguments: object, benchmark: str = "nextqa") -> Any:
        line = ("-b", benchmark, "-p", predictions, "-w", tmp_path / "workspace")
        return vqa("score", *line, *arguments)

    return run


def test_figures_and_counts_are_in_the_documented_json(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = score(saved(tmp_path, answered()), "-a", nextqa_csv(tmp_path), "--split", "dev")
    assert outcome.code == 0
    assert set(outcome.json) == FIELDS
    assert (outcome.json["split"], outcome.json["system"]) == ("val", "system")
    assert outcome.json["metrics"]["accuracy"] == 75.0
    assert outcome.json["metrics"]["by_type"] == {"CW": 75.0, "DL": 75.0, "TN": 75.0}
    low, high = outcome.json["metrics"]["ci95"]
    assert 0 <= low <= 75 <= high <= 100
    assert outcome.json["ci95_of"] == "accuracy"
    assert outcome.json["scorer"] == {
        "name": "accuracy",
        "as_published": False,
        "rules": outcome.json["scorer"]["rules"],
        "form": "keyed-predictions",
        "truth": "annotations",
        "notes": [
            "nextqa val: 12 questions where 4,996 are published",
            "nextqa val: 6 videos where 570 are published",
        ],
    }
    assert "the annotations say which answer is right" in outcome.json["scorer"]["rules"]


def test_the_artifact_holds_each_questions_share(score: Callable[..., Any], tmp_path: Path) -> None:
    predictions = answered()
    del predictions["1005_1"]
    outcome = score(saved(tmp_path, predictions), "-a", nextqa_csv(tmp_path), "--max-failures", 1)
    artifact = Workspace(tmp_path / "workspace").by_reference(
        "metrics", outcome.json["artifact"]["id"]
    )
    assert json.loads((artifact.path / "metrics.json").read_text()) == outcome.json["metrics"]
    rows = pq.read_table(artifact.path / "scored.parquet").to_pylist()
    assert rows[0] == {
        "question_id": "1000_0", "video": "1000", "type": "CW", "categories": [],
        "prediction": "1", "answer": "0", "correct": False, "value": 0.0, "status": "ok",
        "reason": "",
    }  # fmt: skip
    assert (rows[-1]["status"], rows[-1]["reason"]) == ("failed", "no prediction")
    assert rows[-1]["value"] is rows[-1]["correct"] is None
    shares = [row["value"] for row in rows if row["value"] is not None]
    assert sum(shares) / len(shares) == pytest.approx(outcome.json["metrics"]["accuracy"])
    failures = pq.read_table(artifact.path / "failures.parquet").to_pylist()
    assert [(row["id"], row["words"]) for row in failures] == [("1005_1", "no prediction")]


def test_the_same_request_is_reused_and_another_order_scores_the_same(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    annotations = nextqa_csv(tmp_path)
    first = score(saved(tmp_path, answered()), "-a", annotations)
    again = score(saved(tmp_path, answered()), "-a", annotations)
    assert again.json["reused"]
    assert again.json["metrics"] == first.json["metrics"]
    items = list(answered().items())
    random.Random(0).shuffle(items)
    other = score(saved(tmp_path, dict(items)), "-a", annotations)
    assert not other.json["reused"]
    assert other.json["metrics"] == first.json["metrics"]


def test_failures_are_counted_and_above_the_limit_the_exit_code_is_1(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    predictions = answered()
    predictions["1000_0"]["prediction"] = 9
    predictions["1000_1"]["prediction"] = "1"
    del predictions["1001_0"]
    annotations = nextqa_csv(tmp_path)
    outcome = score(saved(tmp_path, predictions), "-a", annotations)
    assert outcome.code == 1
    counts = {name: outcome.json[name] for name in ("n_scored", "n_failed", "n_unlabelled")}
    assert counts == {"n_scored": 9, "n_failed": 3, "n_unlabelled": 0}
    assert outcome.json["metrics"]["accuracy"] == 100.0
    assert outcome.json["metrics"]["accuracy_all"] == 75.0
    lenient = score(saved(tmp_path, predictions), "-a", annotations, "--max-failures", 0.25)
    assert (lenient.code, lenient.json["reused"]) == (0, True)
    strict = score(saved(tmp_path, predictions), "-a", annotations, "--strict", "--force")
    assert strict.code == 3
    assert "1000_0: option 9 is out of range" in strict.json["error"]["message"]


def test_as_published_is_said_and_counts_as_the_public_scorer(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    predictions = answered()
    predictions["1000_0"]["answer"] = predictions["1000_0"]["prediction"]
    predictions["1005_1"]["prediction"] = "1"
    path, annotations = saved(tmp_path, predictions), nextqa_csv(tmp_path)
    ours = score(path, "-a", annotations, "--max-failures", 1)
    assert (ours.json["n_scored"], ours.json["n_failed"]) == (11, 1)
    assert any("differ in 1 of 12" in note for note in ours.json["scorer"]["notes"])
    published = score(path, "-a", annotations, "--as-published")
    assert published.json["scorer"]["as_published"]
    assert published.json["metrics"]["accuracy"] == 75.0
    assert published.json["artifact"]["id"] != ours.json["artifact"]["id"]


def test_hidden_answers_are_unlabelled_and_there_are_no_figures(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = score(
        saved(tmp_path, answered()), "-a", nextqa_csv(tmp_path, labelled=False), "--split", "test"
    )
    assert outcome.code == 0
    assert outcome.json["metrics"] == {}
    assert outcome.json["n_unlabelled"] == 12
    assert outcome.json["ci95_of"] is None


def test_without_annotations_the_files_own_answers_serve_and_it_is_said(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = score(saved(tmp_path, answered()))
    assert outcome.json["metrics"]["accuracy"] == 75.0
    assert outcome.json["scorer"]["truth"] == "predictions"
    assert "ci95" not in outcome.json["metrics"]
    bare = {name: item["prediction"] for name, item in answered().items()}
    silent = score(saved(tmp_path, bare, "bare.json"))
    assert silent.code == 4
    assert "nothing says which answers are right" in silent.json["error"]["message"]


def test_prepared_questions_and_predictions_of_the_workspace_are_scored(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    """`vqa score` of what `vqa eval` wrote, by id and as a file, gives the same figures."""
    workspace = trained_world.copy(tmp_path)
    evaluated = vqa("eval", "-b", "shapes", "-w", workspace)
    line = ("-b", "shapes", "-w", workspace, "-p")
    by_id = vqa("score", *line, evaluated.json["artifact"]["id"])
    folder = Path(evaluated.json["artifact"]["path"])
    by_file = vqa("score", *line, folder / "predictions.parquet", "--split", "test")
    by_folder = vqa("score", *line, folder)
    for outcome in (by_id, by_file, by_folder):
        assert outcome.code == 0, outcome.json
        assert outcome.json["scorer"]["truth"] == "prepared questions"
        for name in ("accuracy", "accuracy_all", "by_type", "ci95"):
            assert outcome.json["metrics"][name] == evaluated.json["metrics"][name]
    assert evaluated.json["artifact"]["id"] in by_id.json["inputs"]
    assert by_id.json["system"] == "vlap"
    wrong = vqa("score", "-b", "star", "-w", workspace, "-p", evaluated.json["artifact"]["id"])
    assert wrong.code == 2
    assert vqa("score", *line, folder, "--split", "val").code == 2
    assert vqa("artifacts", "verify", "-w", workspace).code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--split", "nowhere"), 2, "has no split"),
        (("--ties", "every"), 2, "--ties is for retrieval"),
        (("--ties", "none"), 2, "known: expected"),
        (("--as-published", "--ties", "average"), 2, "not as `average`"),
        (("--vocabulary", "no-such-file"), 4, "vocabulary not found"),
        (("-a", "no-such-file.csv"), 4, "not found"),
        (("--questions", "x", "-a", "y"), 2, "both say"),
    ],
)
def test_what_cannot_be_done_has_its_exit_code(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    score: Callable[..., Any],
    tmp_path: Path,
) -> None:
    given = () if "-a" in arguments else ("-a", nextqa_csv(tmp_path))
    outcome = score(saved(tmp_path, answered()), *given, *arguments)
    assert outcome.code == code, outcome.json
    assert words in outcome.json["error"]["message"] + outcome.json["error"]["hint"]


def test_bad_files_are_one_error_each(score: Callable[..., Any], tmp_path: Path) -> None:
    annotations = nextqa_csv(tmp_path)
    missing = score(tmp_path / "none.json", "-a", annotations)
    assert missing.code == 4
    unknown = score(saved(tmp_path, answered(14), "more.json"), "-a", annotations)
    assert unknown.code == 3
    assert "2 of 14 predictions are for unknown questions" in unknown.json["error"]["message"]
    folder = score(tmp_path, "-a", annotations)
    assert folder.code == 3
    assert "is a folder" in folder.json["error"]["message"]
    no_id = score(Path("no-such-label"), "-a", annotations)
    assert no_id.code == 4
    assert not (tmp_path / "workspace" / "metrics").exists()


def test_retrieval_scores_a_matrix_with_a_stated_tie_rule(
    score: Callable[..., Any], tmp_path: Path
) -> None:
    np.savez(tmp_path / "system.npz", sim=np.zeros((4, 4)))
    path = tmp_path / "system.npz"
    ours = score(path, benchmark="didemo")
    assert ours.json["metrics"]["R@1"] == 25.0
    assert ours.json["metrics"]["video_to_text"]["R@1"] == 25.0
    assert ours.json["scorer"]["ties"] == "expected"
    assert score(path, "--ties", "optimistic", benchmark="didemo").json["metrics"]["R@1"] == 100.0
    published = score(path, "--as-published", benchmark="didemo")
    assert published.json["scorer"]["ties"] == "every"
    assert published.json["metrics"]["MedR"] == 2.5


def test_moments_are_scored_with_their_ranges(score: Callable[..., Any], tmp_path: Path) -> None:
    truth = [
        {"qid": n, "query": "a dog runs", "duration": 20, "vid": f"v{n}",
         "relevant_windows": [[0, 4]], "relevant_clip_ids": [0, 1],
         "saliency_scores": [[4, 4, 4], [2, 2, 3]]}
        for n in range(4)
    ]  # fmt: skip
    said = [
        {"qid": n, "query": "a dog runs", "vid": f"v{n}",
         "pred_relevant_windows": [[0, 4, 0.9]] if n else [],
         "pred_saliency_scores": [0.9, 0.5] + [0.0] * 8}
        for n in range(4)
    ]  # fmt: skip
    lines = {"truth.jsonl": truth, "said.jsonl": said}
    for name, records in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    line = (tmp_path / "said.jsonl", "-a", tmp_path / "truth.jsonl", "--split", "val")
    ours = score(*line, benchmark="qvhighlights")
    assert ours.json["metrics"]["R1@0.7"] == ours.json["metrics"]["mAP"] == 75.0
    assert ours.json["metrics"]["HL-min-VeryGood-Hit1"] == 100.0
    assert ours.json["metrics"]["ranges"]["short"]["mAP"]["average"] == 75.0
    assert ours.json["ci95_of"] == "R1@0.5"
    published = score(*line, "--as-published", benchmark="qvhighlights")
    assert published.json["metrics"]["mAP"] == 100.0
    assert "R1@0.5" not in published.json["metrics"]


def test_the_terminal_shows_two_decimals_the_interval_and_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["score", "-b", "nextqa", "-p", str(saved(tmp_path, answered())),
            "-a", str(nextqa_csv(tmp_path)), "-w", str(tmp_path / "workspace")]  # fmt: skip
    assert run_command(line) == 0
    out, err = capsys.readouterr()
    assert "accuracy" in out
    assert "75.00" in out
    assert "our rules" in out
    assert "95 % interval" in out
    assert "the annotations say which answer is right" in err
    assert run_command([*line, "--as-published"]) == 0
    assert "as published" in capsys.readouterr().out


def test_a_reused_score_is_shown_like_a_new_one_headline_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "scores.npy"
    np.save(matrix, np.eye(3))
    line = ["score", "-b", "didemo", "-p", str(matrix), "-w", str(tmp_path / "workspace")]
    shown = []
    for _ in range(2):
        assert run_command(line) == 0
        shown.append(capsys.readouterr().out.partition("didemo test, ")[2])
    assert shown[0] == shown[1]
    assert "3 scored, 0 failed\n" in shown[0]
    first = [row.split()[0] for row in shown[0].splitlines() if "@" in row or "R " in row]
    assert first[:5] == ["R@1", "R@5", "R@10", "MedR", "MeanR"]


def test_the_tie_rules_of_the_option_are_those_of_the_scorer() -> None:
    assert get_args(TieRule) == TIES
