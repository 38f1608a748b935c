"""`--engine ray`, the quick part: features from videos, begun by one engine, ended by the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.core.runtime import Runtime


class Stop(Exception):
    """What stops a run in the middle, as a kill would."""


def test_ray_ends_what_a_local_run_began_in_the_bytes_of_a_local_run(
    ray: Any, few_videos: Any, content: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    whole = few_videos.extract(tmp_path / "local", Runtime(workers=1, device="cpu")).artifact

    def stop_in_the_third_shard(done: int, total: int, what: str) -> None:
        if done > 5:
            raise Stop

    place = tmp_path / "shared"
    with pytest.raises(Stop):
        few_videos.extract(
            place, Runtime(workers=1, device="cpu", progress=stop_in_the_third_shard)
        )
    (draft,) = (place / "features").iterdir()
    begun = {path: path.stat().st_mtime_ns for path in draft.glob("*.h5")}
    assert 0 < len(begun) < 4
    told: list[tuple[int, int, str]] = []
    on_ray = Runtime(
        workers=1, device="cpu", engine="ray", progress=lambda *said: told.append(said)
    )
    ended = few_videos.extract(place, on_ray).artifact

    assert content(ended.path) == content(whole.path)
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    assert told[-1] == (2 * (4 - len(begun)), 8, "clips")
    assert [path for path in (place / ".locks").rglob("*") if ".run-" in path.name] == []
