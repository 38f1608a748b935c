"""Write the measured tables of docs/parity.md, or check that they still hold.

    python tools/parity_table.py [--check]

Runs `tests/parity` (golden data: `VQA_GOLDEN_VLAP`, `VQA_GOLDEN_SEVILA`, or where the tests find
it) and puts the largest absolute difference of every case between the marks in the page, with
weights placed by hand and with imported ones; and the shares of the newest
`benchmarks/results/*-precision-agreement.json`, if there is one. `--check` writes nothing and ends
with 1 if a case or a share is missing or other, or a difference is more than ten times the page's
(other machines round otherwise).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs/parity.md"
RESULTS = REPOSITORY / "benchmarks/results"
TESTS = REPOSITORY / "tests/parity"
VARIABLE = "VQA_PARITY_TABLE"
"""Names the file that the tests write their differences to."""
WAYS = ("by hand", "imported")
VALUES = "1e-5"
VLAP_GRADIENTS = "1e-6 + 1e-4 max"
SATURATED = f"{VLAP_GRADIENTS}; 8→4: 1e-7 + 1e-3 max"
CASES: dict[tuple[str, str], tuple[str, str]] = {
    ("VLAP", "case 01"): ("frame prompter at 8→2, 8→4, 16→4, 4→1: logits, mask, losses", VALUES),
    ("VLAP", "case 01 gradients"): ("of the prompter and its input", SATURATED),
    ("VLAP", "case 02"): ("frames gathered after `ln_vision`", VALUES),
    ("VLAP", "case 03"): ("Q-Former with text, projection (teacher, student)", VALUES),
    ("VLAP", "case 04"): ("teacher on all frames: loss, answers", VALUES),
    ("VLAP", "case 04 gradients"): ("of everything that trains", VLAP_GRADIENTS),
    ("VLAP", "case 05"): ("student's losses, published and corrected teacher branch", VALUES),
    ("VLAP", "case 05 gradients"): ("of what trains, and of the features", VLAP_GRADIENTS),
    ("VLAP", "case 06"): ("distillation decoder, K ≠ T", VALUES),
    ("VLAP", "case 06 gradients"): ("of the decoder and its input", VLAP_GRADIENTS),
    ("VLAP", "case 07"): ("features to letters, with noise, without, letter first", VALUES),
    ("SeViLA", "case 01"): ("vision tower block by block, both norms after it", VALUES),
    ("SeViLA", "case 02"): ("both Q-Formers layer by layer, projections", VALUES),
    ("SeViLA", "case 03"): ("localizer: T5's input, encoder, logits, top-K", VALUES),
    ("SeViLA", "case 04"): ("answerer in every layout, early `</s>` included", VALUES),
    ("SeViLA", "case 05"): ("forward chain, pixels and strings to answers", VALUES),
    ("SeViLA", "case 06"): ("answerer's fine-tuning: logits, loss", VALUES),
    ("SeViLA", "case 06 gradients"): ("of everything that trains", VALUES),
    ("SeViLA", "case 07"): ("self-refinement: pseudo-labels, loss", VALUES),
    ("SeViLA", "case 07 gradients"): ("of everything that trains", VALUES),
    ("SeViLA", "case 08"): ("pre-training on moments: labels, loss, verdicts", VALUES),
    ("SeViLA", "case 08 gradients"): ("of everything that trains", VALUES),
    ("SeViLA", "case 10b"): ("a run of training: losses 1e-5, parameters after it", "5e-5"),
    ("SeViLA", "case 10b gradients"): ("accumulated before the first step", VALUES),
    ("SeViLA", "case 10b key biases"): ("parameters that only rounding moves", "5e-3"),
    ("SeViLA", "case 12"): ("eps of every normalisation", VALUES),
}  # fmt: skip
"""What each case compares, and the tolerance that the tests hold it to."""
SHARES = {
    "same_kept_frames": "same kept frames",
    "kept_frames_in_common": "kept frames in common",
    "questions_with_ties": "ties",
    "same_answers": "same answers",
    "answers_on_float32s_frames": "same answers on float32's frames",
    "accuracy": "accuracy",
}

Row = dict[str, Any]


def measure() -> list[Row]:
    """Run the tests; the differences of every case.

    Raises:
        SystemExit: A test failed, or there was nothing to compare with.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        # The test of the page itself would compare the new figures with the old page.
        page_test = f"--ignore={TESTS / 'test_parity_page.py'}"
        command = [sys.executable, "-m", "pytest", "-q", str(TESTS), page_test]
        environment = {**os.environ, VARIABLE: str(file)}
        ran = subprocess.run(
            command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        if ran.returncode != 0 or not file.exists():
            raise SystemExit(
                f"{ran.stdout[-3000:]}\n{' '.join(command)} ended with {ran.returncode}"
            )
        rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def difference_table(rows: Iterable[Row]) -> str:
    """Markdown: a line per case, a column per way of the weights.

    Raises:
        SystemExit: A case is not one of `CASES`, or one of them was not measured in both ways.
    """
    found = {(row["system"], row["case"], row["way"]): row["difference"] for row in rows}
    unknown = {key[:2] for key in found} - set(CASES)
    lacking = [(*case, way) for case in CASES for way in WAYS if (*case, way) not in found]
    if unknown or lacking:
        raise SystemExit(f"cases without a description {unknown}, not measured {lacking}")
    lines = [
        [system, case, what, *(number(found[system, case, way]) for way in WAYS), limit]
        for (system, case), (what, limit) in CASES.items()
    ]
    heads = ["system", "case", "what", *(f"weights {way}" for way in WAYS), "tolerance"]
    return table(heads, lines)


def number(value: float) -> str:
    """Two digits; 0 where nothing differs."""
    return f"{value:.1e}" if value else "0"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measured_with() -> str:
    """Date, machine and versions of a measurement."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    date = datetime.now(UTC).date().isoformat()
    return f"Measured {date} on a CPU ({platform.machine()}, one thread), float32, {versions}."


def agreement_table() -> str:
    """Markdown of the newest measurement of the half precisions; a sentence if there is none."""
    files = sorted(RESULTS.glob("*-precision-agreement.json"))
    if not files:
        return "Not measured yet."
    result = json.loads(files[-1].read_text(encoding="utf-8"))
    lines = [
        [system, name, *(f"{100 * shares[key]:.1f}" for key in SHARES)]
        for system, found in result["systems"].items()
        for name, shares in found["policies"].items()
    ]
    said = (
        f"{result['questions']} questions on {result['videos']} videos, {result['frames']} frames "
        f"seen, {result['keep']} kept, {result['date']}, {result['machine']}; in percent. From "
        f"`benchmarks/results/{files[-1].name}`, made by `{result['command']}`."
    )
    return f"{table(['system', 'policy', *SHARES.values()], lines)}\n\n{said}"


def put(page: str, mark: str, text: str) -> str:
    """The page with `text` between the marks called `mark`."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(\n<!-- end of {mark} -->)", re.DOTALL)
    changed, count = pattern.subn(lambda found: f"{found[1]}{text}{found[2]}", page)
    if count != 1:
        raise SystemExit(f"{PAGE}: no marks of {mark}")
    return changed


def between(page: str, mark: str) -> str:
    """What stands between the marks called `mark`."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- end of {mark} -->", page, re.DOTALL)
    if found is None:
        raise SystemExit(f"{PAGE}: no marks of {mark}")
    return found[1]


def documented(page: str) -> list[Row]:
    """The differences that the page gives."""
    rows = []
    for line in between(page, "differences").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if (*cells[:2],) in CASES:
            for way, value in zip(WAYS, cells[3:5], strict=True):
                row = {"system": cells[0], "case": cells[1], "way": way}
                rows.append(row | {"difference": float(value)})
    return rows


def problems(page: str, rows: Iterable[Row]) -> list[str]:
    """Why the page does not hold."""
    told = {(r["system"], r["case"], r["way"]): r["difference"] for r in documented(page)}
    found = {(r["system"], r["case"], r["way"]): r["difference"] for r in rows}
    wrong = [f"{' '.join(key)}: not in the page" for key in sorted(found.keys() - told.keys())]
    wrong += [f"{' '.join(key)}: not measured" for key in sorted(told.keys() - found.keys())]
    wrong += [
        f"{' '.join(key)}: {value:.1e}, the page says {told[key]:.1e}"
        for key, value in sorted(found.items())
        if key in told and value > 10 * max(told[key], 1e-7)
    ]
    if between(page, "agreement") != agreement_table():
        wrong.append("the half precisions' agreement is another than the newest result's")
    return wrong


def main() -> int:
    """Measure, then write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it does not hold")
    given = parser.parse_args()
    page, rows = PAGE.read_text(encoding="utf-8"), measure()
    text = difference_table(rows)
    print(text)
    if given.check:
        wrong = problems(page, rows)
        print("\n".join(wrong), file=sys.stderr)
        return 1 if wrong else 0
    page = put(page, "differences", f"{text}\n\n{measured_with()}")
    PAGE.write_text(put(page, "agreement", agreement_table()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
