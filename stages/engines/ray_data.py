"""Shards on the machines of a Ray cluster, with Ray Data (extra: ray).

    missing shards -> pool of actors that decode -> pool of actors that encode and commit
    missing shards -> pool of actors that build and commit                (work without halves)

One row is one shard from end to end. Which shards are done is ours to say: only missing ones are
scheduled, actors claim and commit through `ShardedDraft` as a local run does, and Ray's checkpoints
are not used. What goes wrong comes back as a row, so no block is in error but when a machine is
lost; its tasks are tried again, and where Ray gives up, what is missing is scheduled anew.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from stages.artifacts.shards import POLL_SECONDS, ShardedDraft
from stages.core.errors import MachineError
from stages.core.optional import require
from stages.core.runtime import Runtime, silent
from stages.engines.elsewhere import Ticket, ticket_for
from stages.engines.rows import Answer, RowActor, first_half, packed, second_half, unpacked, whole
from stages.engines.work import ShardWork, Spent

FUTILE_PASSES = 2
"""Passes in a row that may end without one shard more."""
AHEAD = 2
"""Decoded shards on their way to or in one encoding actor."""


def run_on_ray(work: ShardWork, runtime: Runtime) -> Spent:
    """Build every selected shard that nobody else is building, on the cluster's machines.

    Joins the cluster that `RAY_ADDRESS` names (`auto`: the one that this machine is in); without
    it, Ray starts on this machine for as long as the run lasts.

    Raises:
        MissingExtra: Ray is not installed.
        MachineError: No such cluster, no accelerator in it, a machine that must not take part
            (`Ticket`), or a shard that no actor survives.
    """
    ray, data = require("ray", "ray"), require("ray.data", "ray")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    lost = (ray.exceptions.RayError, data.exceptions.ExecutionTimeoutError)
    spent, futile = Spent(), 0
    # Ray's threads print what befalls its nodes; stdout is for the command's own JSON.
    with redirect_stdout(sys.stderr), _cluster(ray):
        while missing := work.sharded.missing():
            before, free = spent.shards, list(filter(work.sharded.is_free, missing))
            try:
                with (
                    ticket_for(work) as ticket,
                    closing(_answers(ray, data, ticket, work, runtime, free)) as answers,
                ):
                    for answer in answers:
                        _take(answer, spent, work, runtime)
            except lost as error:
                futile = 0 if spent.shards > before else futile + 1
                if isinstance(error, ray.exceptions.RayTaskError) or futile == FUTILE_PASSES:
                    raise _explained(error, work.sharded) from error
            if spent.shards == before:
                time.sleep(POLL_SECONDS)
    return spent


def _take(answer: Answer, spent: Spent, work: ShardWork, runtime: Runtime) -> None:
    if answer.error is not None:
        raise answer.error
    if answer.built is not None:
        spent.add(answer.built)
        runtime.progress(min(spent.items, work.total), work.total, work.what)


def _explained(error: Exception, sharded: ShardedDraft) -> MachineError:
    missing = sharded.missing()
    words = str(error).strip().splitlines() or [type(error).__name__]
    return MachineError(
        f"Ray could not build {len(missing)} shards, number {missing[0]} first: {words[-1]}",
        "finished shards are kept: run the same command again, with fewer --workers if memory "
        "was short, or without --engine ray to see the shard fail here",
    )


# --- the cluster ---------------------------------------------------------------------------------


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Drive the cluster that `RAY_ADDRESS` names, or one of this machine's own.

    Never one that merely happens to run here: it may be another run's, and end with it.
    """
    if ray.is_initialized():
        yield
        return
    named = os.environ.get("RAY_ADDRESS")
    alone = {} if named else {"include_dashboard": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(named or "local", log_to_driver=False, logging_level="ERROR", **alone)
    except ConnectionError as error:
        raise MachineError(f"no Ray cluster at RAY_ADDRESS={named}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Pool:
    """Actors that do one part of the work: how many, what they do and what each takes."""

    size: int
    open: Callable[[Runtime], AbstractContextManager[Any]]
    run: Callable[[ShardedDraft, Any, Answer], Answer]
    gpus: int = 0


def _pools(ray: Any, work: ShardWork, runtime: Runtime, cpus: Sequence[float]) -> list[_Pool]:
    """A decoder per core, and an encoder per accelerator or, without one, per machine."""
    decoders, builders, gpus = runtime.workers or max(1, int(sum(cpus))), len(cpus), 0
    if work.device == "cuda":
        builders, gpus = int(ray.cluster_resources().get("GPU", 0)), 1
        if builders == 0:
            raise MachineError("the Ray cluster has no GPU", "use --device cpu")
    if work.halves is not None:
        ahead = _Pool(decoders, work.halves.first, first_half)
        return [ahead, _Pool(builders, work.halves.second, second_half, gpus)]
    return [_Pool(builders if work.device else decoders, work.open, whole, gpus)]


def _answers(
    ray: Any, data: Any, ticket: Ticket, work: ShardWork, runtime: Runtime, shards: list[int]
) -> Generator[Answer, None, None]:
    """One pass over some shards: an answer for each, as they come."""
    if not shards:
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [float(resources["CPU"]) for resources in nodes if resources.get("CPU")]
    pools = _pools(ray, work, runtime, cpus)
    # Half of the cores' slots stay free: actors of a lost machine must find room on the others.
    share = min(1.0, sum(cpus) / (2 * sum(pool.size for pool in pools)))
    how = replace(runtime, progress=silent, workers=1)
    if work.device is not None:
        how = replace(how, device=work.device)
    data.DataContext.get_current().enable_progress_bars = False
    dataset = data.from_arrow([packed(Answer(shard)) for shard in shards])
    for number, pool in enumerate(pools):
        dataset = dataset.map_batches(
            RowActor,
            fn_constructor_args=(ticket, how, pool.open, pool.run, True),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=data.ActorPoolStrategy(
                size=min(pool.size, len(shards)),
                max_tasks_in_flight_per_actor=AHEAD if number else 1,
            ),
            num_cpus=share,
            num_gpus=pool.gpus,
        )
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield unpacked(table)
