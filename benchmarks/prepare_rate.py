"""How fast `vqa prepare` reads a file of AGQA's size and form, and in how much memory.

    python benchmarks/prepare_rate.py [--rows 1600000] [--videos 9600] [--folder DIR]

Writes invented questions as one JSON object keyed by question id, with the fields of AGQA's
balanced files, and as many videos as those are about: hard links to one tiny H.264 file, so that
every one is found, hashed and probed. Then, one after the other and each in a process of its own:
`vqa prepare`, `json.load` and `orjson.loads` (pip install orjson) of the same file. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np

SEED = 20261120
POLL_SECONDS = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
VERBS = ("holding", "tidying", "touching", "opening", "carrying", "wiping", "leaning on")
THINGS = ("a blanket", "the table", "a phone", "a dish", "the door", "a bag", "some clothes")
TIMES = ("before", "after", "while")
GLOBAL = (["exists"], ["obj-rel"], ["rel-act", "sequencing"], ["obj-rel", "superlative"])
SEMANTIC = ("object", "relation", "action")
STRUCTURAL = ("compare", "choose", "logic", "verify")

PLAIN = {
    "json": "import json\nwith open(path, encoding='utf-8') as file:\n    rows = json.load(file)",
    "orjson": "import orjson\nwith open(path, 'rb') as file:\n    rows = orjson.loads(file.read())",
}
"""What people write; run in a process of its own with `path` set."""


def video_names(count: int) -> list[str]:
    """Five letters or digits each, as Charades names its videos; all different."""
    generator = random.Random(SEED)
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(generator.choices(LETTERS, k=5))] = None
    return list(names)


def rows(count: int, videos: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`count` questions with AGQA's fields; words, answers and groundings are drawn."""
    generator = random.Random(SEED + 1)
    for number in range(count):
        video = videos[number * len(videos) // count]
        verb, thing, when = map(generator.choice, (VERBS, THINGS, TIMES))
        other, binary = generator.choice(THINGS), generator.random() < 0.5
        frames = [
            f"o{generator.randrange(40)}/{generator.randrange(10**6):06d}"
            for _ in range(generator.randrange(24))
        ]
        flags = ("nc_seq", "nc_sup", "nc_dur", "nc_objrel", "indirect", "i_obj", "i_rel", "i_act")
        yield (
            f"{video}-{number}",
            {
                "question": f"Were they {verb} {thing} {when} interacting with {other}?",
                "answer": generator.choice(("yes", "no")) if binary else thing.split()[-1],
                "video_id": video,
                "global": generator.choice(GLOBAL),
                "local": f"o{generator.randrange(40)}-{when}-c{generator.randrange(157):03d}",
                "ans_type": "binary" if binary else "open",
                "steps": generator.randrange(1, 9),
                "semantic": generator.choice(SEMANTIC),
                "structural": generator.choice(STRUCTURAL) if binary else "query",
                "novel_comp": 0,
                "more_steps": 0,
                "program": f"Exists({other}, Iterate(Localize({when}, {verb} {thing}), Filter()))",
                "sg_grounding": {"27-36": [], "43-59": [f"c{generator.randrange(157):03d}/1"]}
                | {f"{end - 5}-{end}": frames for end in (generator.randrange(60, 99),)},
                **{flag: generator.randrange(2) for flag in flags},
                "i_temp": 1,
                "direct_equiv": f"{video}-{generator.randrange(count)}",
            },
        )


def write_annotations(path: Path, count: int, videos: list[str]) -> None:
    """One object on one line, as `json.dump` writes it; a row is held at a time."""
    with path.open("w", encoding="utf-8") as file:
        for number, (name, row) in enumerate(rows(count, videos)):
            file.write(f"{', ' if number else '{'}{json.dumps(name)}: {json.dumps(row)}")
        file.write("}")


def write_videos(folder: Path, names: list[str]) -> None:
    """One clip of eight frames of 32 x 32 pixels, and a hard link to it for every name."""
    folder.mkdir()
    source = folder / f"{names[0]}.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            picture = np.full((32, 32, 3), 30 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    for name in names[1:]:
        os.link(source, folder / f"{name}.mp4")


def resident(pid: int) -> int:
    """Bytes that a process holds in memory now; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def descendants(pid: int) -> list[int]:
    """The processes that `pid` started, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def measured(command: list[str], environment: dict[str, str]) -> tuple[str, dict[str, float]]:
    """Standard output of a command, its wall time and the memory that it took.

    `peak_mib` is the kernel's own figure for the command's process; `peak_with_workers_mib` adds
    the processes that it started, looked at ten times a second. `cpu_seconds` counts them too and,
    unlike the wall time, hardly depends on what else the machine does.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, env=environment)
        together = 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            family = (process.pid, *descendants(process.pid))
            together = max(together, sum(map(resident, family)))
            time.sleep(POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        text = out.read()
    if process.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}: {text}")
    peak = usage.ru_maxrss / 1024
    return text, {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(peak, 1),
        "peak_with_workers_mib": round(max(peak, together / 2**20), 1),
    }


def prepare(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """`vqa prepare`: everything from the first byte of the file to the finished artifact."""
    command = [
        *(sys.executable, "-m", "vqa_cli", "prepare", "--benchmark", "agqa", "--split", "train"),
        *("--annotations", str(folder / "train_balanced.txt"), "--videos", str(folder / "videos")),
        *("--workspace", str(folder / "workspace"), "--json", "--quiet"),
    ]
    text, cost = measured(command, environment)
    output = json.loads(text)
    facts = {name: output[name] for name in ("counts", "coverage", "reading")}
    table = Path(output["artifact"]["path"]) / "questions.parquet"
    return {**facts, **cost, "questions_parquet_bytes": table.stat().st_size}


def plain(name: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The whole file parsed at once by `json` or `orjson`, and nothing made of it."""
    code = (
        f"import time\npath = {str(folder / 'train_balanced.txt')!r}\n"
        f"began = time.perf_counter()\n{PLAIN[name]}\n"
        "print(len(rows), time.perf_counter() - began)"
    )
    text, cost = measured([sys.executable, "-c", code], environment)
    count, seconds = text.split()
    rate = {"rows": int(count), "seconds": round(float(seconds), 3)}
    return {"reading": rate | {"rows_per_second": round(int(count) / float(seconds), 1)}, **cost}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_600_000)
    parser.add_argument("--videos", type=int, default=9_600)
    parser.add_argument("--folder", type=Path, help="where the files go [a temporary folder]")
    parser.add_argument("--machine", default="", help="a description, for the record")
    given = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        videos = video_names(given.videos)
        write_annotations(folder / "train_balanced.txt", given.rows, videos)
        write_videos(folder / "videos", videos)
        size = (folder / "train_balanced.txt").stat().st_size
        load = os.getloadavg()[0]
        found = {"vqa_prepare": prepare(folder, environment)}
        found |= {parser: plain(parser, folder, environment) for parser in PLAIN}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": given.machine or f"{platform.system()} {platform.machine()}",
        "load_average": load,
        "command": shlex.join(["python", *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("pyarrow", "orjson")},
        },
        "file": {"rows": given.rows, "videos": given.videos, "bytes": size},
        "target_peak_mib": 1536,
        **found,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
