"""`vqa bench` at tiny size: every record says what was measured, where and by which command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.bench.clock import Clock, peak_bytes, product_rate, ratio, reset_peak, rounds_of
from stages.bench.latency import several_questions
from stages.bench.work import make_work
from vqa_cli.main import run_command

CPU = torch.device("cpu")


def test_latency_gives_every_system_both_schedules_and_the_papers_figures(
    vqa: Callable[..., Any],
) -> None:
    outcome = vqa("bench", "latency", "--device", "cpu", "--videos", 2, "--batch", 2, "--rounds", 1)
    assert outcome.code == 0, outcome.json
    record = outcome.json
    rows = record["ms_per_video"]
    assert set(rows) == {"vlap 8->4", "vlap 32->4", "vlap 2", "sevila 32->4"}
    for row in rows.values():
        assert {"reference", "from_pixels", "cached_features"} <= set(row)
        assert min(row.values()) > 0
    assert set(rows["sevila 32->4"]) - set(rows["vlap 2"]) == {"token_cache"}
    # ours chooses and says what the published schedule does, question for question
    for name, agreed in record["same_as_reference"].items():
        ways = set(rows[name]) - {"reference"}
        assert set(agreed) == {f"{way}_{what}" for way in ways for what in ("frames", "answers")}
        exact = {value for key, value in agreed.items() if not key.startswith("cached_features")}
        assert exact == {1.0}
        assert all(0 <= value <= 1 for value in agreed.values())
    papers = record["paper_times_faster_than_sevila"]
    assert (papers["vlap 8->4"], papers["vlap 32->4"], papers["vlap 2"]) == (3.04, 1.45, 4.18)
    assert record["times_faster_than_sevila_reference"]["vlap 8->4"]["cached_features"] > 1
    assert {"date", "command", "machine", "versions", "device", "clock"} <= set(record)
    assert "targets" not in record, "goals are set for the published sizes"


def test_a_training_step_is_timed_with_and_without_the_tower(vqa: Callable[..., Any]) -> None:
    outcome = vqa(
        *("bench", "train", "--device", "cpu", "--batch", 1, "--rounds", 1, "--frames", 8)
    )
    assert outcome.code == 0, outcome.json
    for role in ("student", "teacher"):
        assert set(outcome.json["seconds_per_step"][role]) == {
            "cached_features",
            "tower_in_the_loop",
        }
        assert min(outcome.json["peak_bytes"][role].values()) > 1_000_000


def test_the_tower_is_held_against_a_product_of_the_same_run(vqa: Callable[..., Any]) -> None:
    outcome = vqa(
        *("bench", "features", "--device", "cpu", "--videos", 1, "--rounds", 1),
        *("--decode-workers", 0, "--frames", 8),
    )
    assert outcome.code == 0, outcome.json
    shares = outcome.json["share_of_product"]
    assert shares["stage"] > 0
    assert 0 < shares["forward"] < 2
    rate, flops = outcome.json["frames_per_second"]["stage"], outcome.json["operations_per_frame"]
    product = outcome.json["product_operations_per_second"]
    assert shares["stage"] == pytest.approx(rate * flops / product, rel=1e-2)


def test_reading_is_held_against_a_memory_map(vqa: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vqa(
        *("bench", "cache", "--backbone", "tiny", "--videos", 2, "--rounds", 1, "--loaders", 1),
        *("--workspace", tmp_path),
    )
    assert outcome.code == 0, outcome.json
    record = outcome.json
    for part in ("whole_videos", "k_of_t_frames"):
        for processes in ("one_process", "1_loaders"):
            assert set(record[part][processes]["gb_per_second"]) == {"row_reader", "memmap", "h5py"}
    whole, kept = record["whole_videos"], record["k_of_t_frames"]
    assert kept["bytes_per_video"] / whole["bytes_per_video"] == record["share_of_bytes_for_k_of_t"]
    assert record["share_of_bytes_for_k_of_t"] == 4 / 32
    assert not list(tmp_path.iterdir())
    assert record["clock"] == "wall"


def test_the_pool_is_held_against_processes_that_only_decode(vqa: Callable[..., Any]) -> None:
    outcome = vqa(
        *("bench", "decode", "--seconds", 2, "--clips", 1, "--workers", 1, "--rounds", 1),
        *("--frames", 8),
    )
    assert outcome.code == 0, outcome.json
    assert set(outcome.json["frames_per_second"]) == {"pool", "one_process", "processes_together"}
    assert min(outcome.json["frames_per_second"].values()) > 0
    assert outcome.json["clock"] == "wall"
    assert outcome.json["targets"]["pool_over_workers_times_one_process"]["at_least"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["latency", "--precision", "int4"], 3, "precision"),
        (["features", "--backbone", "nothing-here"], 2, "nothing-here"),
        (["features", "--backbone", "clip-vit-base-patch16"], 2, "layout"),
        (["train", "--frames", 8, "--keep", 3, "--device", "cpu"], 3, "3"),
        (["latency", "--device", "cuda:7"], 5, "cuda:7"),
        (["decode", "--frames", 60, "--seconds", 2], 3, "60 frames"),
    ],
)
def test_impossible_requests_are_explained(
    arguments: list[Any], code: int, named: str, vqa: Callable[..., Any]
) -> None:
    outcome = vqa("bench", *arguments)
    assert outcome.code == code, outcome.json
    assert named in outcome.json["error"]["message"]


def test_questions_of_the_token_cache_are_about_their_own_videos() -> None:
    work = make_work(videos=3, questions=3, size=16, frames=2)
    many = several_questions(work)
    assert len(many.questions) == round(8.8 * 3)
    assert many.video_of == sorted(many.video_of)
    own = {
        question.videos: video
        for question, video in zip(work.questions, work.video_of, strict=True)
    }
    asked = [own[question.videos] for question in many.questions]
    assert asked == many.video_of


def test_rounds_are_left_to_the_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = ["bench", "decode", "--seconds", "1", "--clips", "1", "--workers", "1", "--rounds", "1"]
    assert run_command([*line, "--frames", "4", "-w", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "frames per second pool" in shown
    assert "rounds" not in shown


def test_a_product_has_a_rate_and_ways_take_turns() -> None:
    assert product_rate(CPU, "float32", seconds=0.05) > 1e8
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = rounds_of(ways, Clock(CPU), 3)
    assert "".join(order) == "abcbcacab"
    assert {len(values) for values in seconds.values()} == {3}
    assert ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0]) == 3.0


def test_the_peak_starts_anew() -> None:
    held = torch.ones(40_000_000)
    del held
    reset_peak(CPU)
    before = peak_bytes(CPU)
    again = torch.ones(20_000_000)
    grown = peak_bytes(CPU) - before
    assert grown >= 0.9 * again.nbytes
    assert grown < 1.5 * again.nbytes
