"""Golden case 11: accuracies as the reference reports them."""

from __future__ import annotations

from typing import Any

import pytest

from stages.benchmarks.manifest import benchmark_names, load_manifest
from stages.benchmarks.scorers.accuracy import ScoredRow, score


def scored_row(row: dict[str, Any], number: int) -> ScoredRow:
    return ScoredRow(
        question_id=f"{number}-{row['qid']}",
        video=f"v{number}",
        type=row["qid"].split("_")[0],
        answer="ABCDE".index(row["answer"].removeprefix("Option ")),
        prediction=row["pred"],
        status="ok",
    )


def test_metrics_equal_the_reference(vlap_golden: Any) -> None:
    for name, data in vlap_golden.json("case11_metrics")["datasets"].items():
        manifest = load_manifest(name if name in benchmark_names() else "custom")
        rows = [scored_row(row, i) for i, row in enumerate(data["rows"])]
        ours, golden = score(rows, manifest), dict(data["metrics"])
        assert len(rows) == golden.pop("total")
        overall = golden.pop("agg_metrics")
        # The reference mixes scales: STAR in percent and macro, the others as a fraction.
        if name == "star":
            assert ours["accuracy_macro"] == pytest.approx(overall, abs=1e-9)
        else:
            assert ours["accuracy"] == pytest.approx(100 * overall, abs=1e-9)
        for kind, value in golden.items():
            assert ours["by_type"][kind] == pytest.approx(value, abs=1e-9)
