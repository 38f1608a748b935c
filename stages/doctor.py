"""What works on this machine: everything is tried, nothing is believed from its version alone.

Reads: the clips beside `stages.video`, the embedded backbones.   Writes: a folder of its own below
the workspace (or where that would be), which is removed again.

Every check says `ok`, `warning` (something is slower or absent, the rest works) or `failed`
(something that every command needs), what was found, and what to do.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages.artifacts import atomic
from stages.artifacts.store import library_versions
from stages.core.errors import ConfigError, UsageError, VqaError
from stages.models.embedded import EMBEDDED
from stages.recipes.recipe import Recipe
from stages.video import DECODERS, resolve_decoder
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.tasks import Decoded, DecodeTask, ExactFrames

log = logging.getLogger(__name__)

State = Literal["ok", "warning", "failed"]

LEAST_PYTHON = (3, 11)
NEEDED = ("torch", "transformers", "numpy", "pandas", "pyarrow", "h5py", "safetensors", "av")
EXTRAS = {
    "lora": ("peft",),
    "tensorboard": ("tensorboard",),
    "serve": ("starlette", "uvicorn"),
    "ray": ("ray",),
}
"""Extra -> packages that it brings."""
SAMPLES = {"h264": "numbered-h264.mp4", "vp9": "numbered-vp9.webm", "av1": "numbered-av1.mp4"}
CLIP_FRAMES = 16
WANTED_FRAMES = (0, 5, 6, 11, 15)
"""Numbers that lie on and between key frames."""
DARKEST, SHADE_STEP = 24, 13
SEEN_SIDE = 32
DECODE_SECONDS = 60.0
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "lustre", "ceph")
LEAST_FREE, LITTLE_FREE = 200e6, 5e9
LITTLE_MEMORY = 4e9
LARGE_CLIP_BYTES = 32 * 257 * 1408 * 2
"""32 frames of a full-size BLIP-2 tower in float16."""
TOLERANCE = {"bfloat16": 0.05, "float16": 0.01}
"""Of a product of two matrices, relative to float32."""
TROUBLES = (VqaError, ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError)
"""What a broken installation raises."""


@dataclass(frozen=True)
class Check:
    """What one look found.

    Attributes:
        name: What was looked at.
        state: How it is.
        found: What it is, in a few words.
        advice: What to do; empty where nothing need be done.
    """

    name: str
    state: State
    found: str
    advice: str = ""

    def as_json(self) -> dict[str, str]:
        """One element of `checks`."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Place:
    """Where and on what to try.

    Attributes:
        workspace: The workspace, which need not exist.
        device: As in `--device`.
        scratch: A folder on the workspace's file system; none: it cannot be written.
        problem: Why not.
        recipe: Whose plan the machine is held against; none: no recipe's.
    """

    workspace: Path
    device: str
    scratch: Path | None
    problem: str = ""
    recipe: Recipe | None = None


def examine(workspace: Path, device: str = "auto", recipe: Recipe | None = None) -> Iterator[Check]:
    """All checks, each as soon as it is done.

    Args:
        workspace: On whose file system locks and renames are tried; it is not created.
        device: As in `--device`.
        recipe: Whose plan is held against disk and memory.

    Raises:
        ConfigError: The recipe itself is faulty; nothing is looked at.
        UsageError: It names a benchmark or split that there is not.
    """
    if recipe is not None:
        _refuse_faulty(recipe, workspace)
    scratch, problem = _make_scratch(workspace)
    place = Place(workspace, device, scratch, problem, recipe)
    try:
        for name, look, advice in CHECKS:
            try:
                yield from look(place)
            except TROUBLES as error:
                hint = getattr(error, "hint", "") or advice
                yield Check(name, "failed", f"{type(error).__name__}: {error}", hint)
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def summary(checks: Sequence[Check]) -> dict[str, Any]:
    """The JSON object of all checks."""
    states = [check.state for check in checks]
    return {
        "command": "doctor",
        "usable": "failed" not in states,
        "failed": states.count("failed"),
        "warnings": states.count("warning"),
        "checks": [check.as_json() for check in checks],
        "versions": library_versions(),
    }


def shade_of(frame: int) -> int:
    """The grey of a frame of the sample clips."""
    return DARKEST + SHADE_STEP * frame


# --- the installation ----------------------------------------------------------------------------


def _python(place: Place) -> Iterator[Check]:
    version = platform.python_version()
    where = f"{version} on {platform.system()} {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        yield Check("python", "failed", where, "install Python 3.11 or newer")
        return
    yield Check("python", "ok", f"{where}, vqa {library_versions().get('vqa-toolkit', '?')}")


def _packages(place: Place) -> Iterator[Check]:
    missing = [name for name in NEEDED if util.find_spec(name) is None]
    if missing:
        yield Check(
            "packages", "failed", f"missing: {', '.join(missing)}", "pip install vqa-toolkit"
        )
    else:
        versions = [f"{name} {metadata.version(name)}" for name in NEEDED]
        yield Check("packages", "ok", ", ".join(versions))
    yield _extras()


def _extras() -> Check:
    """Optional packages; none is needed until a command says so."""
    absent = [
        extra
        for extra, packages in EXTRAS.items()
        if any(util.find_spec(name) is None for name in packages)
    ]
    here = ", ".join(extra for extra in EXTRAS if extra not in absent) or "none"
    if not absent:
        return Check("extras", "ok", f"installed: {here}")
    found = f"installed: {here}; not installed: {', '.join(absent)}"
    return Check(
        "extras", "ok", found, f"when you need them: pip install 'vqa-toolkit[{','.join(absent)}]'"
    )


def _machine(place: Place) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{cores} cores, {memory / 1e9:.1f} GB of memory"
    if memory < LITTLE_MEMORY:
        advice = "the embedded backbones fit; full-size ones need 16 GB and more"
        yield Check("machine", "warning", found, advice)
    else:
        yield Check("machine", "ok", found)


# --- arithmetic ----------------------------------------------------------------------------------


def _torch(place: Place) -> Iterator[Check]:
    import torch

    from stages.core.device import resolve_device

    device = resolve_device(place.device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        yield Check(
            "device",
            "ok",
            f"torch {torch.__version__} on the CPU, {threads} threads, no accelerator",
        )
    else:
        yield Check("device", "ok", f"torch {torch.__version__} on {_accelerator(device)}")
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 64, generator=generator)
    exact = values @ values.T
    found = (values.to(device) @ values.T.to(device)).cpu()
    error = float((found - exact).abs().max() / exact.abs().max())
    # TF32, where it is on, keeps ten bits.
    state: State = "ok" if error < 2e-3 else "failed"
    yield Check("float32", state, f"a product of matrices is right to {error:.1e}")
    for name, tolerance in TOLERANCE.items():
        yield _half(name, tolerance, values, exact, device)


def _half(name: str, tolerance: float, values: Any, exact: Any, device: Any) -> Check:
    """Half precision is a choice; without it float32 is left."""
    import torch

    advice = "keep to --dtype float32 and --set precision=float32"
    try:
        half = values.to(device, getattr(torch, name))
        found = (half @ half.T).float().cpu()
    except RuntimeError as error:
        return Check(name, "warning", str(error).splitlines()[0], advice)
    off = float((found - exact).abs().max() / exact.abs().max())
    if not off < tolerance:
        return Check(name, "warning", f"a product of matrices is off by {off:.1e}", advice)
    return Check(name, "ok", f"a product of matrices is right to {off:.1e}")


def _accelerator(device: Any) -> str:
    import torch

    if device.type != "cuda":
        return str(device.type)
    facts = torch.cuda.get_device_properties(device)
    return f"{facts.name}, {facts.total_memory / 1e9:.0f} GB"


def _backbones(place: Place) -> Iterator[Check]:
    """Load each embedded backbone's tower and look at a frame."""
    import torch

    from stages.core.device import resolve_device
    from stages.models.backbones.catalog import PUBLISHED, backbone_path
    from stages.models.backbones.folder import BackboneFolder
    from stages.models.backbones.towers import load_tower

    device = resolve_device(place.device)
    for name in EMBEDDED:
        tower = load_tower(BackboneFolder(backbone_path(name)), device)
        size = tower.spec.image_size
        grey = torch.full((1, size, size, 3), 128, dtype=torch.uint8, device=device)
        finite = bool(torch.isfinite(tower.encode(tower.preprocess(grey)).tokens).all())
        state: State = "ok" if finite else "failed"
        found = f"loads; {tower.spec.tokens} tokens a frame, {'' if finite else 'not '}finite"
        yield Check(f"backbone {name}", state, found, "" if finite else "install vqa-toolkit again")
    from huggingface_hub import try_to_load_from_cache

    here = [name for name, hub in PUBLISHED.items()
            if isinstance(try_to_load_from_cache(hub, "config.json"), str)]  # fmt: skip
    absent = [PUBLISHED[name] for name in PUBLISHED if name not in here]
    advice = f"when you need them: hf download {absent[0]}, ..." if absent else ""
    yield Check(
        "published backbones", "ok", f"in the hub cache: {', '.join(here) or 'none'}", advice
    )


# --- decoders ------------------------------------------------------------------------------------


def _decoders(place: Place) -> Iterator[Check]:
    """Decode the sample clips with each decoder, and compare."""
    used = resolve_decoder("auto")
    pictures: dict[tuple[str, str], np.ndarray] = {}
    for decoder in sorted(DECODERS):
        if decoder == "decord" and util.find_spec("decord") is None:
            yield Check("decoder decord", "warning", "not installed; PyAV is used instead")
            continue
        with DecodePool(1, decoder, DECODE_SECONDS) as pool:
            for codec in SAMPLES:
                needed = decoder == used and codec == "h264"
                check, frames = _decode(pool, decoder, codec, needed=needed)
                yield check
                if frames is not None:
                    pictures[decoder, codec] = frames
    for codec in SAMPLES:
        both = [pictures[name, codec] for name in sorted(DECODERS) if (name, codec) in pictures]
        if len(both) == 2:
            yield _difference(codec, *both)


def _decode(
    pool: DecodePool, decoder: str, codec: str, *, needed: bool
) -> tuple[Check, np.ndarray | None]:
    """Whether the asked frames come, told by their shades."""
    name = f"decoder {decoder}, {codec}"
    trouble: State = "failed" if needed else "warning"
    advice = "install av and decord again" if needed else "use --decoder pyav, or h264"
    wanted = (ExactFrames(WANTED_FRAMES),)
    with resources.as_file(resources.files("stages.video") / "samples" / SAMPLES[codec]) as path:
        (result,) = pool.imap([DecodeTask(codec, path, wanted, FrameFormat.squash(SEEN_SIDE))])
    if not isinstance(result, Decoded):
        words = result.decoder_words.replace(str(path), SAMPLES[codec])
        return Check(name, trouble, words, advice), None
    frames = result.batch.frames
    shades = frames.reshape(len(frames), -1).mean(axis=1)
    numbers = tuple(int(n) for n in np.rint((shades - DARKEST) / SHADE_STEP))
    if numbers != WANTED_FRAMES:
        said = f"frames {numbers} where {WANTED_FRAMES} were asked"
        return Check(name, trouble, said, advice), None
    by = "" if result.batch.decoder == decoder else f" (by {result.batch.decoder})"
    return Check(name, "ok", f"{len(frames)} frames of {CLIP_FRAMES}, the right ones{by}"), frames


def _difference(codec: str, one: np.ndarray, other: np.ndarray) -> Check:
    worst = int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
    found = f"pixels differ by {worst} at most" if worst else "the same bytes"
    advice = "features will depend on the decoder: name one with --decoder" if worst > 2 else ""
    return Check(f"decoders agree, {codec}", "warning" if worst > 2 else "ok", found, advice)


# --- disk ----------------------------------------------------------------------------------------


def _make_scratch(workspace: Path) -> tuple[Path | None, str]:
    """A folder on the file system where the workspace is or would be."""
    parent = workspace.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        return Path(tempfile.mkdtemp(prefix=".vqa-doctor-", dir=parent)), ""
    except OSError as error:
        return None, f"{parent}: {error.strerror or error}"


def _disk(place: Place) -> Iterator[Check]:
    if place.scratch is None:
        advice = "choose a folder that you may write: --workspace DIR"
        yield Check("workspace", "failed", f"cannot be written: {place.problem}", advice)
        return
    kind = _file_system(place.scratch)
    network = kind in NETWORK_FILE_SYSTEMS
    yield Check(
        "workspace",
        "warning" if network else "ok",
        f"{place.workspace} on {kind or 'an unknown file system'}, can be written",
        "several machines at once need locks that reach across them: give each its own --shard"
        if network
        else "",
    )
    yield _locks(place.scratch)
    yield _renames(place.scratch)
    yield _tables(place.scratch)
    yield _space(place)


def _locks(scratch: Path) -> Check:
    """Whether a held lock is seen by others, and given back."""
    path = scratch / "lock"
    advice = "one process at a time, or a workspace on a local disk: --workspace DIR"
    with path.open("ab") as first, path.open("ab") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return Check("locks", "failed", "two hold the same lock", advice)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Check("locks", "ok", "exclude each other and are given back")


def _renames(scratch: Path) -> Check:
    """Whether a file is replaced in one step and made durable."""
    path = scratch / "renamed"
    started = time.monotonic()
    for text in (b"old", b"new"):
        atomic.write_bytes(path, text)
    milliseconds = 500 * (time.monotonic() - started)
    if path.read_bytes() != b"new" or list(scratch.glob("*.tmp")):
        return Check("atomic rename", "failed", "the old file is still there", "--workspace DIR")
    return Check("atomic rename", "ok", f"replaces, {milliseconds:.0f} ms a file with fsync")


def _tables(scratch: Path) -> Check:
    """HDF5 and Parquet, written and read back."""
    h5py: Any = importlib.import_module("h5py")
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    with h5py.File(scratch / "rows.h5", "w") as file:
        file["rows"] = values
    with h5py.File(scratch / "rows.h5", "r") as file:
        same = bool((file["rows"][:] == values).all())
    table = arrow.table({"time": [0.5, 1.5]})
    parquet.write_table(table, scratch / "rows.parquet", compression="zstd")
    same = same and parquet.read_table(scratch / "rows.parquet").equals(table)
    if not same:
        return Check("HDF5 and Parquet", "failed", "read back something else", "pip install again")
    return Check(
        "HDF5 and Parquet", "ok", f"written and read back (HDF5 {h5py.version.hdf5_version})"
    )


def _space(place: Place) -> Check:
    """Free disk against the features that the prepared questions would need at full size."""
    from stages.artifacts.store import Workspace

    assert place.scratch is not None
    free = atomic.free_bytes(place.scratch)
    prepared = Workspace(place.workspace).finished("questions")
    clips = sum(int(item.manifest.get("coverage", {}).get("videos", {}).get("found", 0))
                for item in prepared)  # fmt: skip
    need = clips * LARGE_CLIP_BYTES
    found = f"{free / 1e9:,.1f} GB free"
    if clips:
        found += f"; {clips:,} prepared videos need {need / 1e9:,.1f} GB"
        found += " of features by a full-size BLIP-2 (32 frames, float16)"
    advice = "free some, or choose another disk: --workspace DIR"
    if free < LEAST_FREE:
        return Check("free disk", "failed", found, advice)
    if free < LITTLE_FREE or free < need:
        return Check("free disk", "warning", found, f"{advice}; or fewer --frames, --dtype int8")
    return Check("free disk", "ok", found)


def _file_system(path: Path) -> str:
    """Type of the file system that holds `path`, where the system tells."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


# --- a plan --------------------------------------------------------------------------------------


def _refuse_faulty(recipe: Recipe, workspace: Path) -> None:
    """What is wrong with the recipe itself is no trouble of the machine."""
    if not recipe.steps:
        raise ConfigError(f"recipe {recipe.name} has no [[step]], so no plan", "vqa run --help")
    try:
        from stages.artifacts.store import Workspace
        from stages.bench.plan import recipe_plan

        recipe_plan(recipe, Workspace(workspace), "cpu")
    except (ConfigError, UsageError):
        raise
    except TROUBLES as error:
        log.debug("the plan of %s is tried again among the checks: %s", recipe.name, error)


def _plan(place: Place) -> Iterator[Check]:
    """What a recipe would write and hold, and what it lacks."""
    if place.recipe is None:
        return
    from stages.artifacts.store import Workspace
    from stages.bench.plan import recipe_plan

    plan = recipe_plan(place.recipe, Workspace(place.workspace), place.device)
    totals, name = plan["totals"], f"recipe {place.recipe.name}"
    disk, free = totals["bytes"], totals["free_bytes"]
    found = f"{_gigabytes(disk)} of features at most, {_gigabytes(free)} free"
    if disk is not None and disk > free:
        advice = "another disk: --workspace DIR; or a recipe with fewer frames or --dtype int8"
        yield Check(f"{name}, disk", "failed", found, advice)
    else:
        yield Check(f"{name}, disk", "ok", found)
    need, memory = totals["memory_bytes"], totals["machine_memory_bytes"]
    found = f"up to {_gigabytes(need)}, {_gigabytes(memory)} here"
    if need is not None and need > memory:
        advice = "a smaller batch_size in the recipe, or another machine"
        yield Check(f"{name}, memory", "warning", found, advice)
    else:
        yield Check(f"{name}, memory", "ok", found)
    missing = plan["missing"]
    found = "; ".join(item["what"] for item in missing)
    yield Check(
        f"{name}, inputs",
        "warning" if missing else "ok",
        f"missing: {found}" if missing else "all there",
        missing[0]["hint"] if missing else "",
    )


def _gigabytes(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value / 1e9:,.1f} GB"


Look = Callable[[Place], Iterator[Check]]
CHECKS: tuple[tuple[str, Look, str], ...] = (
    ("python", _python, "install Python 3.11 or newer"),
    ("packages", _packages, "install vqa-toolkit again"),
    ("machine", _machine, ""),
    ("workspace", _disk, "choose another folder: --workspace DIR"),
    ("decoders", _decoders, "install av and decord again: pip uninstall, pip install"),
    ("torch", _torch, "install torch again, or use --device cpu"),
    ("backbones", _backbones, "install vqa-toolkit and transformers again"),
    ("recipe", _plan, "vqa run RECIPE --dry-run"),
)
"""Name, what is tried, and what to do when even trying fails. The quick ones come first."""
