"""Run by torchrun in `test_two_processes_systems.py`: several command lines, one after the other.

    torchrun --nproc_per_node 2 several_lines.py FOLDER

FOLDER holds `lines.json`, a list of argument lists; the exit codes of each process are left there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from vqa_cli.main import run_command


def run(arguments: list[str]) -> tuple[int, str]:
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):
        code = run_command(arguments)
    return code, caught.getvalue()


def main() -> None:
    folder = Path(sys.argv[1])
    lines = json.loads((folder / "lines.json").read_text())
    outcomes = []
    for line in lines:
        outcomes.append(run(line))
        if outcomes[-1][0] != 0:
            break  # the other process would wait for this one for ever
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(outcomes))
    sys.exit(outcomes[-1][0])


if __name__ == "__main__":
    main()
