"""Three nodes on one machine, each of one core and a small store; one is lost in the middle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.core.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STORE_BYTES = 150 * 2**20
NODES = 3


@pytest.fixture
def cluster(ray_package: Any) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    del node["include_dashboard"]
    for _ in range(NODES - 1):
        made.add_node(**node)
    made.wait_for_nodes()
    ray_package.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray_package.shutdown()
    made.shutdown()


def actors() -> set[int]:
    """Ids of the processes that are actors of a pool."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.add(int(folder.name))
    return found


def test_a_node_lost_in_the_middle_changes_no_byte(
    cluster: Any,
    few_videos: Any,
    content: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    local = Runtime(workers=1, device="cpu")
    whole = few_videos.extract(tmp_path / "local", local, videos_per_shard=1).artifact
    lost: set[int] = set()

    def lose_a_node(done: int, total: int, what: str) -> None:
        if lost:
            return
        before = actors()
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        deadline = time.monotonic() + 30
        while not before - actors() and time.monotonic() < deadline:
            time.sleep(0.05)
        lost.update(before - actors())

    on_ray = Runtime(device="cpu", engine="ray", progress=lose_a_node)
    ended = few_videos.extract(tmp_path / "ray", on_ray, videos_per_shard=1).artifact

    assert lost, "no actor was on the node"
    assert len(cluster.list_all_nodes()) == NODES - 1
    assert content(ended.path) == content(whole.path)
