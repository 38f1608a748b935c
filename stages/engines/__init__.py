"""Engines: who builds the shards of an artifact, this process or the machines of a cluster.

    work        what every engine is given: a `ShardWork`, and what it gives back
    local       this process, one pipeline over all shards
    ray_data    Ray Data (extra: ray): pools of actors on any number of machines

An engine decides where and when a shard is built, never what is in it: a shard is a pure function
of inputs, config and its number, and whoever builds one claims and commits it through
`ShardedDraft`. So a run may be begun by one engine and finished by another.
"""

from __future__ import annotations

from stages.core.runtime import Runtime
from stages.engines.local import run_here
from stages.engines.work import Build, Built, Halves, Open, ShardWork, Spent

__all__ = ["Build", "Built", "Halves", "Open", "ShardWork", "Spent", "build_shards"]


def build_shards(work: ShardWork, runtime: Runtime) -> Spent:
    """Build the selected shards that nobody has built yet, with the engine of `runtime`.

    Returns:
        What this run spent on the shards that it built; zeros where all were there.

    Raises:
        MissingExtra: The engine's package is not installed.
        MachineError: No cluster, or one that cannot do the work.
        VqaError: Whatever the work itself raises, on whichever machine.
    """
    if not work.sharded.missing():
        return Spent()
    if runtime.engine == "ray":
        from stages.engines.ray_data import run_on_ray  # Ray is an optional package

        return run_on_ray(work, runtime)
    return run_here(work, runtime)
