"""What a smaller feature cache costs: int8, float8 and the pooled tier on `shapes`.

    python benchmarks/smaller_cache.py --workspace FOLDER

FOLDER is the workspace of a finished `vqa demo`; it is copied (hard links), nothing is written
into it. Test features are stored anew in each type and the demo's weights, trained on float16,
answer from them: bytes, accuracy, and how many answers and kept frames stay what they were. For the
pooled tier a student is distilled whose prompter reads nothing else. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

DTYPES = ("float16", "bfloat16", "int8", "float8")
WEIGHTS = {
    "vlap-student-question": ("vlap", "--weights"),
    "vlap-teacher": ("vlap", "--weights"),
    "sevila-localizer": ("sevila", "--selector"),
}
"""Part of the label of the demo's weights: system that answers, option that takes them."""


def vqa(workspace: Path, *arguments: str) -> dict[str, Any]:
    """The JSON of one command."""
    line = [sys.executable, "-m", "vqa_cli", *arguments, "-w", str(workspace), "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stored_bytes(workspace: Path, reference: str) -> int:
    """Bytes of the HDF5 files of one artifact."""
    return sum(item.stat().st_size for item in (workspace / "features" / reference).glob("*.h5"))


def extract(workspace: Path, split: str, *options: str) -> str:
    """Id of features of the demo's stored frames."""
    found = vqa(
        workspace, "extract-features", "--benchmark", "shapes", "--split", split,
        "--backbone", "tiny", *options,
    )  # fmt: skip
    return str(found["artifact"]["id"])


def evaluate(workspace: Path, system: str, *options: str) -> dict[str, Any]:
    """Accuracy, keyframe recall and the rows of one evaluation."""
    found = vqa(
        workspace, "eval", "--benchmark", "shapes", "--split", "test", "--system", system,
        "--no-blind", *options,
    )  # fmt: skip
    artifact = workspace / "predictions" / found["artifact"]["id"]
    table = pq.read_table(artifact / "predictions.parquet", columns=["prediction", "frames"])
    return {"metrics": found["metrics"], "rows": table.to_pylist()}


def against(rows: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, float]:
    """Percent of questions with the same answer, and with the same kept frames."""
    pairs = list(zip(rows, reference, strict=True))
    return {
        f"same_{name}": round(100 * sum(a[key] == b[key] for a, b in pairs) / len(pairs), 2)
        for name, key in (("answers", "prediction"), ("kept_frames", "frames"))
    }


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """What is printed of an evaluation."""
    wanted = ("accuracy", "keyframe_recall", "keyframe_precision")
    return {name: round(metrics[name], 2) for name in wanted if name in metrics}


def weights_called(workspace: Path, part: str) -> str:
    """Id of the demo's weights whose label has `part`."""
    return next(
        item.name for item in sorted((workspace / "weights").iterdir()) if part in item.name
    )


def smaller_types(workspace: Path) -> list[dict[str, Any]]:
    """A row per stored type and weights."""
    rows, references = [], {}
    for dtype in DTYPES:
        made = extract(workspace, "test", "--dtype", dtype)
        size = stored_bytes(workspace, made)
        for part, (system, option) in WEIGHTS.items():
            held = weights_called(workspace, part)
            extra = ["--weights", "none", "--backbone", "tiny"] if option == "--selector" else []
            found = evaluate(workspace, system, option, held, "--features", made, *extra)
            references.setdefault(part, found["rows"])
            rows.append(
                {
                    "dtype": dtype,
                    "weights": part,
                    "bytes": size,
                    **figures(found["metrics"]),
                    **against(found["rows"], references[part]),
                }
            )
    return rows


def pooled(workspace: Path) -> dict[str, Any]:
    """A student whose prompter reads the pooled tier."""
    made = {
        split: extract(workspace, split, "--set", "pooled=true")
        for split in ("train", "val", "test")
    }
    options = [item for split in ("train", "val") for item in ("--features", made[split])]
    student = weights_called(workspace, "vlap-student-question")
    config = json.loads((workspace / "weights" / student / "manifest.json").read_text())["config"]
    values = {
        "model.prompter_reads": "pooled",
        "model.train_ln_vision": config["model"]["train_ln_vision"],
        "cache_teacher_targets": config["cache_teacher_targets"],
        **{f"training.{key}": config["training"][key] for key in ("epochs", "batch_size")},
        "training.optimizer": config["training"]["optimizer"],
        "training.schedule": config["training"]["schedule"],
    }
    settings = [
        item for key, value in values.items() for item in ("--set", f"{key}={json.dumps(value)}")
    ]
    found = vqa(
        workspace, "distill", "--benchmark", "shapes", "--keep", "4", "--prompter", "question",
        "--weights", weights_called(workspace, "vlap-start"), "--answer", config["answer"],
        "--teacher", weights_called(workspace, "vlap-teacher"), *options, *settings,
        "--name", "pooled",
    )  # fmt: skip
    held = found["artifact"]["id"]
    answered = evaluate(workspace, "vlap", "--weights", held, "--features", made["test"])
    size = stored_bytes(workspace, made["test"])
    manifest = json.loads((workspace / "features" / made["test"] / "manifest.json").read_text())
    tokens, width = manifest["tokens"], manifest["width"]
    return {
        **figures(answered["metrics"]),
        "bytes": size,
        "tier_over_tokens": round(2 / tokens, 4),
        "tier_over_tokens_vit_g": round(2 / 257, 4),
        "bytes_read_for_4_of_32": round((2 * 32 + tokens * 4) / (tokens * 32), 4),
        "width": width,
    }


def main() -> None:
    """Copy, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.workspace.parent) as folder:
        copy = Path(folder) / "workspace"
        subprocess.run(["cp", "-rl", str(arguments.workspace), str(copy)], check=True)
        record = {
            "what": "smaller feature caches on shapes",
            "date": datetime.now(UTC).date().isoformat(),
            "command": "python benchmarks/smaller_cache.py --workspace FOLDER",
            "machine": {
                "cores": os.cpu_count(),
                "machine": platform.machine(),
                "python": platform.python_version(),
                "torch": metadata.version("torch"),
            },
            "types": smaller_types(copy),
            "pooled": pooled(copy),
        }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
