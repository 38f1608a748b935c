"""`vqa score` on the samples whose figures public scorers gave: equal to every printed digit.

The golden values are read from the files beside the samples; skipped where these are absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.statistics import macro

Score = Callable[..., Any]

NEXTQA_NAMES = {
    "Why": "CW", "How": "CH", "When": "TC", "Cnt": "DC", "Loc": "DL", "Other": "DO",
    "Bef&Aft": "TN+TP", "Acc_C": "C", "Acc_T": "T", "Acc_D": "D",
}  # fmt: skip


@pytest.fixture
def data(shared: Path) -> Path:
    return shared / "data"


@pytest.fixture
def score(tmp_path: Path, vqa: Callable[..., Any], data: Path) -> Score:
    """Scores a sample; paths are below the data folder. Returns the JSON of a run that ended
    well, or with nothing but failures above the limit."""

    def run(benchmark: str, predictions: str, *arguments: object, code: int = 0) -> Any:
        paths = [data / item if "/" in str(item) else item for item in arguments]
        line = ("-b", benchmark, "-p", data / predictions, "-w", tmp_path / "workspace")
        outcome = vqa("score", *line, *paths)
        assert outcome.code == code, outcome.json
        return outcome.json

    return run


def golden(path: Path) -> Any:
    return json.loads(path.read_text())


def printed(value: float) -> float:
    return float(f"{value:.2f}")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("HGA-bert-ft-h256-val-example", "val"),
        ("HQGA-test", "test"),
        ("TranSTR-test-61.97", "test"),
    ],
)
@pytest.mark.parametrize("rules", [(), ("--as-published",)])
def test_nextqa(name: str, split: str, rules: tuple[str, ...], score: Score, data: Path) -> None:
    folder = "nextqa/scorer_samples"
    expected = golden(data / folder / "golden_metrics.json")[name]["metrics"]
    annotations = ("-a", f"nextqa/{split}.csv.gz", "--split", split)
    metrics = score("nextqa", f"{folder}/{name}.json.gz", *annotations, *rules)["metrics"]
    figures = metrics["by_type"] | metrics["by_group"]
    ours = {theirs: printed(figures[name]) for theirs, name in NEXTQA_NAMES.items()}
    assert ours | {"Acc": printed(metrics["accuracy"])} == expected


def test_nextqa_predictions_of_sevila_in_a_table(score: Score) -> None:
    sample = "nextqa/scorer_samples/SeViLA_test_predictions_telicity.csv.gz"
    given = score("nextqa", sample, "-a", "nextqa/test.csv.gz", "--split", "test", code=1)
    assert (given["n_scored"], given["n_failed"]) == (2060, 8564 - 2060)
    own = score("nextqa", sample, "--split", "test")
    assert (own["n_scored"], own["n_failed"]) == (2060, 0)
    assert printed(given["metrics"]["accuracy"]) == printed(own["metrics"]["accuracy"]) == 58.01


@pytest.mark.parametrize(
    "name", ["videotf_4f", "videotf_16f", "videotf_64f", "video_llava_vot_results"]
)
def test_star(name: str, score: Score, data: Path) -> None:
    folder = "star/scorer_samples"
    expected = golden(data / folder / "golden_metrics.json")["metrics"][name]
    published = score("star", f"{folder}/{name}.jsonl.gz", "--split", "val", "--as-published")
    metrics = published["metrics"]
    types = {kind for kind in expected if kind in metrics["by_type"]}
    assert types == set(metrics["by_type"])
    assert {kind: metrics["by_type"][kind] for kind in types} == pytest.approx(
        {kind: expected[kind] for kind in types}, rel=1e-13
    )
    assert metrics["agg_metrics"] == pytest.approx(expected["agg_metrics"], rel=1e-13)
    assert metrics["accuracy"] == pytest.approx(expected["micro_accuracy_percent"], rel=1e-13)
    assert published["n_questions"] == expected["total"]
    ours = score("star", f"{folder}/{name}.jsonl.gz", "--split", "val")["metrics"]
    assert ours["accuracy_all"] == pytest.approx(expected["micro_accuracy_percent"], rel=1e-13)


def test_star_with_annotations_agrees_with_the_files_own_answers(score: Score) -> None:
    annotations = ("-a", "star/val_sevila_format.json.gz", "--split", "val")
    outcome = score("star", "star/scorer_samples/videotf_4f.jsonl.gz", *annotations)
    assert outcome["scorer"]["notes"] == []  # not one answer differs
    assert outcome["metrics"]["accuracy_macro"] == pytest.approx(44.46399124160715, rel=1e-13)
    part = ("star/scorer_samples/video_llava_vot_results.jsonl.gz", *annotations)
    failed = score("star", *part, code=1)
    assert (failed["n_scored"], failed["n_failed"]) == (600, 7098 - 600)


def test_the_aggregate_of_star_is_the_mean_that_sevilas_own_evaluator_writes(data: Path) -> None:
    """The lines of real evaluations: type figures, their mean, and counts they come from."""
    sizes = {"Interaction": 2398, "Sequence": 3586, "Prediction": 624, "Feasibility": 490}
    folder = data / "star/scorer_samples/sevila_evaluate"
    lines = [line for path in sorted(folder.glob("*.txt")) for line in path.read_text().split("\n")]
    values = [json.loads(line) for line in lines if line.strip()]
    records = [value["val"] for value in values if "val" in value]
    assert len(records) >= 6
    for record in records:
        assert macro(record, list(sizes)) == pytest.approx(record["agg_metrics"], rel=1e-13)
        assert record["total"] == sum(sizes.values())
        for kind, size in sizes.items():
            right = record[kind] / 100 * size
            assert right == pytest.approx(round(right), abs=1e-8)


def test_how2qa(score: Score, data: Path) -> None:
    folder = "how2qa/scorer_samples"
    annotations = ("-a", "how2qa/how2qa_val_release.jsonl.gz", "--split", "val")
    metrics = score("how2qa", f"{folder}/how2qa_val_predictions.json", *annotations)["metrics"]
    expected = golden(data / folder / "golden_metrics.json")["VALUE_scorer_val"]
    assert printed(metrics["accuracy"]) == expected


def test_tvqa_by_its_answer_key(score: Score, data: Path) -> None:
    folder = "tvqa/scorer_samples"
    annotations = ("-a", "tvqa/tvqa_val_solution.json", "--split", "val")
    outcome = score("tvqa", f"{folder}/tvqa_val_predictions.json", *annotations)
    expected = golden(data / folder / "golden_metrics.json")["VALUE_scorer_val"]
    assert printed(outcome["metrics"]["accuracy"]) == expected
    assert outcome["n_scored"] == 15253


def test_vlep(score: Score, data: Path) -> None:
    folder = "vlep/scorer_samples"
    expected = golden(data / folder / "golden_metrics.json")
    theirs = expected["official_scorer_after_renaming_pred_ans_to_pre_ans"]["qa_acc"]["overall"]
    annotations = ("-a", "vlep/vlep_dev_release.jsonl.gz", "--split", "dev")
    sample = f"{folder}/sample_dev_submission.jsonl"
    assert printed(score("vlep", sample, *annotations)["metrics"]["accuracy"]) == theirs
    refused = score("vlep", sample, *annotations, "--as-published", code=3)
    assert "`pre_ans`" in refused["error"]["message"]
    value = score("vlep", f"{folder}/VALUE_vlep_dev_predictions.json", *annotations)["metrics"]
    assert printed(value["accuracy"]) == expected["VALUE_scorer_on_VALUE_sample"]
    hidden = score(
        "vlep", f"{folder}/VALUE_vlep_test_predictions.json",
        "-a", "vlep/vlep_test_release.jsonl.gz", "--split", "test",
    )  # fmt: skip
    assert (hidden["metrics"], hidden["n_unlabelled"]) == ({}, 4192)


@pytest.mark.parametrize("name", ["sample_val_preds", "inference_hl_val_test_code_preds"])
def test_qvhighlights(name: str, score: Score, data: Path) -> None:
    folder = "qvhighlights/scorer_samples"
    expected = golden(data / folder / "golden_metrics.json")[name]["moment_detr"]
    annotations = ("-a", "qvhighlights/highlight_val_release.jsonl.gz", "--split", "val")
    metrics = score("qvhighlights", f"{folder}/{name}.jsonl.gz", *annotations)["metrics"]
    brief = {label.removeprefix("MR-full-"): value for label, value in expected["brief"].items()}
    assert {label: printed(metrics[label]) for label in brief} == brief
    for label, table in metrics["ranges"].items():
        for figure in ("R1", "mAP"):
            ours = {threshold: printed(value) for threshold, value in table[figure].items()}
            assert ours == expected[label][f"MR-{figure}"]


@pytest.mark.parametrize("name", ["HQGA-test", "TranSTR-test-45.92"])
@pytest.mark.parametrize("annotations", ["test_hqga.csv.gz", "test_qa.json.gz"])
def test_msvd_qa(name: str, annotations: str, score: Score, data: Path) -> None:
    folder = "msvd_qa/scorer_samples"
    expected = golden(data / folder / "golden_metrics.json")[name]
    line = ("msvd-qa", f"{folder}/{name}.json.gz", "-a", f"msvd_qa/{annotations}")
    ours, published = score(*line)["metrics"], score(*line, "--as-published")["metrics"]
    assert round(ours["accuracy"], 4) == expected["plain_micro_accuracy_percent"]
    theirs = {kind: printed(value) for kind, value in published["by_type"].items()}
    assert theirs | {"All": printed(published["accuracy"])} == expected["metrics"]


def test_msvd_qa_with_the_vocabulary_of_the_predictions(score: Score, data: Path) -> None:
    folder = "msvd_qa/scorer_samples"
    expected = golden(data / folder / "golden_metrics.json")
    for name, base in (("HQGA-test", 1), ("TranSTR-test-45.92", 0)):
        outcome = score(
            "msvd-qa", f"{folder}/{name}.json.gz", "-a", "msvd_qa/test_hqga.csv.gz",
            "--vocabulary", "msvd_qa/ans_word_hqga.json",
        )  # fmt: skip
        accuracy = outcome["metrics"]["accuracy"]
        assert round(accuracy, 4) == expected[name]["plain_micro_accuracy_percent"]
        assert f"indices from {base}" in outcome["scorer"]["notes"][0]


@pytest.mark.parametrize("keyed", [True, False])
def test_egotaskqa(keyed: bool, score: Score, data: Path) -> None:
    sample = "egotaskqa/scorer_samples/synthetic_0.json"
    expected = golden(data / "egotaskqa/scorer_samples/synthetic_0.metrics.json")
    metrics = score("egotaskqa", sample, *(("-a", sample) if keyed else ()))["metrics"]
    theirs = {kind: 100 * value for kind, value in expected["per_reasoning_type"].items()}
    assert metrics["by_type"] == pytest.approx(theirs, rel=1e-13)
    assert metrics["accuracy"] == pytest.approx(100 * expected["overall"], rel=1e-13)


def test_egomcq(score: Score, data: Path) -> None:
    sample = "egomcq/scorer_samples/synthetic_0.json"
    expected = golden(data / "egomcq/scorer_samples/synthetic_0.metrics.json")
    for rules, theirs in (((), "EgoVLPv2"), (("--as-published",), "LaViLa")):
        metrics = score("egomcq", sample, *rules)["metrics"]
        assert metrics["inter"] == pytest.approx(expected[theirs]["Inter-video"], rel=1e-13)
        assert metrics["intra"] == pytest.approx(expected[theirs]["Intra-video"], rel=1e-13)


@pytest.mark.parametrize("name", ["synthetic_300", "synthetic_300_ties"])
def test_retrieval(name: str, score: Score, data: Path) -> None:
    folder = "msrvtt_retrieval/scorer_samples"
    expected = golden(data / folder / f"{name}.metrics.json")

    def figures(ties: str, reverse: bool, names: dict[str, str]) -> dict[str, float]:
        outcome = score("msrvtt-retrieval", f"{folder}/{name}.npz", *ties.split(" "))
        metrics = outcome["metrics"]["video_to_text"] if reverse else outcome["metrics"]
        return {theirs: metrics[ours] for theirs, ours in names.items()}

    recalls = {f"R{k}": f"R@{k}" for k in (1, 5, 10)}
    frozen = recalls | {"R50": "R@50", "MedR": "MedR", "MeanR": "MeanR"}
    clip4clip = recalls | {"MedianR": "MedR", "MeanR": "MeanR"}
    for key, ties, reverse, names in (
        ("frozen_in_time_t2v(optimistic ties)", "--ties optimistic", False, frozen),
        ("frozen_in_time_v2t(averaging ties)", "--ties average", True, frozen),
        ("clip4clip_t2v", "--as-published", False, clip4clip),
        ("clip4clip_v2t", "--as-published", True, clip4clip),
    ):
        theirs = {label: expected[key][label] for label in names}
        assert figures(ties, reverse, names) == pytest.approx(theirs, rel=1e-13), key
