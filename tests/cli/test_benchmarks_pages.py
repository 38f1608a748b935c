"""The pages of docs/benchmarks say what the manifests say, and their examples are real."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import benchmark_names, load_manifest
from stages.benchmarks.readers import read_questions

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / "tools/benchmark_pages.py"
TEXTS: dict[str, Any] = tomllib.loads(TOOL.with_suffix(".toml").read_text(encoding="utf-8"))
EXAMPLES = [(name, layout) for name, found in TEXTS["examples"].items() for layout in found]


def test_the_pages_are_in_sync_with_the_manifests() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{done.stderr} run python tools/benchmark_pages.py"


def test_every_benchmark_and_layout_has_its_texts() -> None:
    assert sorted(TEXTS["asks"]) == benchmark_names()
    expected = [
        (name, layout) for name in benchmark_names() for layout in load_manifest(name).layouts
    ]
    assert sorted(EXAMPLES) == sorted(expected)


@pytest.mark.parametrize(("name", "layout"), EXAMPLES)
def test_every_example_is_read_as_the_layout_it_is_shown_for(
    name: str, layout: str, tmp_path: Path
) -> None:
    manifest = load_manifest(name)
    file = tmp_path / "example"
    file.write_text(TEXTS["examples"][name][layout].lstrip("\n"), encoding="utf-8")
    read = read_questions(manifest, manifest.report_split, file)
    assert read.layout == layout
    assert read.bad_rows == []
    assert read.questions
    page = (REPOSITORY / f"docs/benchmarks/{name}.md").read_text(encoding="utf-8")
    assert f"`{layout}`" in page
