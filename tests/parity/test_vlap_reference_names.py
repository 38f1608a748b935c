"""Golden case 9: names of checkpoints, and the weight assembly between the two stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stages.models.reference_names import (
    assemble_student,
    ours_from_reference,
    reference_from_ours,
    teacher_name,
)


def numbered(names: list[str], start: int) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(start + i) for i, name in enumerate(names)}


def test_assembly_takes_every_value_from_where_the_reference_does(vlap_golden: Any) -> None:
    note = vlap_golden.json("case09_reweight_keys")
    start, teacher = numbered(note["before"], 0), numbered(note["before"], 10_000)
    assembled = assemble_student(start, teacher)
    assert set(assembled) == set(note["after"])
    assert set(assembled) - set(start) == set(note["added"])
    copies = {teacher_name(name): value for name, value in teacher.items() if name in start}
    for name in note["added"]:
        assert torch.equal(assembled[name], copies[name])
    for name in note["before"]:
        assert torch.equal(assembled[name], start[name])


def test_every_checkpoint_name_is_understood(vlap_golden: Any) -> None:
    note = vlap_golden.json("case09_reweight_keys")
    names = [*note["after"], *note["missing_when_loaded"], *note["missing_when_loaded_t5"]]
    _, unknown = ours_from_reference(numbered(names, 0))
    assert unknown == []


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_names_go_there_and_back(vlap_golden: Any, who: str) -> None:
    state = vlap_golden.tensors(f"weights_{who}")
    ours, unknown = ours_from_reference(state)
    assert unknown == []
    back = reference_from_ours(ours)
    dropped = {name for name in state if name.endswith("position_ids")}
    assert set(back) == set(state) - dropped
    assert all(torch.equal(back[name], state[name]) for name in back)
    assert len(set(ours)) == len(state) - len(dropped)


def test_what_stays_unfilled_is_what_the_reference_leaves_unfilled(vlap_golden: Any) -> None:
    note = vlap_golden.json("case09_reweight_keys")
    ours, _ = ours_from_reference(numbered(note["after"], 0))
    student = vlap_golden.student()
    own = {name.removeprefix("backbone.") for name, _ in student.named_parameters()}
    missing = {name for name in own - set(ours) if not name.startswith("language_model.")}
    expected, _ = ours_from_reference(numbered(note["missing_when_loaded"], 0))
    assert missing == {name for name in expected if not name.startswith("language_model.")}


def test_an_unknown_name_is_reported() -> None:
    _, unknown = ours_from_reference({"somebody.else": torch.zeros(1)})
    assert unknown == ["somebody.else"]
