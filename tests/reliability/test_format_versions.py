"""Artifacts of another format are refused at the command line with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(("step", "words"), [(-1, "rebuild it: vqa"), (1, "update vqa")])
@pytest.mark.parametrize("kind", ["questions", "frames"])
def test_another_format_version_ends_with_exit_3_and_the_way_out(
    kind: str, step: int, words: str, forked_vqa: Any, prepared: Any, tmp_path: Path
) -> None:
    stage = prepared.stages["features"]
    workspace = prepared.copy(stage, tmp_path / "w")
    (path,) = (workspace / kind).glob("*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["format_version"] += step
    path.write_text(json.dumps(manifest))

    named = ("--questions" if kind == "questions" else "--frames-from", path.parent)
    used = forked_vqa(*stage.arguments, *named, "-w", workspace)
    shown = forked_vqa("artifacts", "show", path.parent, "-w", workspace)
    verified = forked_vqa("artifacts", "verify", "-w", workspace)

    for outcome in (used, shown):
        assert outcome.code == 3, outcome.stdout
        assert words in outcome.json["error"]["hint"]
        assert f"format {manifest['format_version']}" in outcome.json["error"]["message"]
    assert verified.code in (3, 6)
    assert path.parent.exists(), "left as it is"


def test_an_older_artifact_of_the_same_request_is_refused_before_any_work(
    forked_vqa: Any, prepared: Any, tmp_path: Path
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")
    made = forked_vqa(*stage.arguments, "-w", workspace)
    path = Path(made.json["artifact"]["path"]) / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format_version": 99}
    path.write_text(json.dumps(manifest))

    again = forked_vqa(*stage.arguments, "-w", workspace)

    assert again.code == 3
    assert again.steps == []
