"""Run by torchrun in `test_two_processes.py`: one whole run, one that stops after some passes.

    torchrun --nproc_per_node 2 two_processes.py FOLDER -- ARGUMENTS OF vqa

The whole run is called `whole`, the one that stops `broken`. What each process wrote to stdout and
its exit codes are left in FOLDER.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from stages.core.errors import VqaError
from stages.training.loop import Fit
from vqa_cli.main import run_command

STOP_AFTER = 4


def run(arguments: list[str]) -> dict[str, Any]:
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):
        code = run_command(arguments)
    return {"code": code, "stdout": caught.getvalue()}


def stop_after(passes: int) -> None:
    whole = Fit._forward_backward

    def failing(self: Fit, *rest: Any) -> None:
        if self.position.forward_passes == passes:
            raise VqaError("interrupted")
        whole(self, *rest)

    Fit._forward_backward = failing  # type: ignore[method-assign]


def main() -> None:
    folder, arguments = Path(sys.argv[1]), sys.argv[3:]
    outcomes = {"whole": run([*arguments, "--name", "whole"])}
    stop_after(STOP_AFTER)
    outcomes["broken"] = run([*arguments, "--name", "broken", "--set", "training.seed=43"])
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
