"""Backbones by name: what a folder is called in labels, and that nothing else is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts.store import LABEL_CHARACTERS
from stages.core.device import resolve_device, torch_version
from stages.core.errors import UsageError
from stages.models.backbones.catalog import EMBEDDED, PUBLISHED, backbone_label


@given(st.text(max_size=30))
def test_every_folder_gets_a_usable_label(name: str) -> None:
    label = backbone_label(name.replace("\0", ""))
    assert label
    assert set(label) <= LABEL_CHARACTERS


@pytest.mark.parametrize("name", [*EMBEDDED, *PUBLISHED])
def test_names_of_the_catalogue_stay_as_they_are(name: str) -> None:
    assert backbone_label(name) == name


def test_a_folder_is_called_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    assert backbone_label(str(folder)) == "my-model"
    assert backbone_label(f"{folder}/") == "my-model"
    monkeypatch.chdir(folder)
    assert backbone_label(".") == "my-model"
    assert backbone_label("../my model") == "my-model"
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside")
    assert backbone_label("..") == "my-model"


@pytest.mark.parametrize("name", ["meta", "xla", "nothing", "cpu:x"])
def test_a_device_to_run_on_is_one_of_the_known(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_device(name)
    assert "cuda" in caught.value.hint


def test_torch_is_named_by_two_numbers() -> None:
    assert all(part.isdigit() for part in torch_version().split("."))
    assert torch_version().count(".") == 1
