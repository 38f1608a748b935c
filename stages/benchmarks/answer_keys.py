"""Answer keys: files with which a scorer can judge predictions, but which hold no questions.

Reads what `layouts.keys` describes; writes nothing. A key is small and has to be right, so a row
that cannot be read is an error and not a counted row.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from stages.benchmarks.annotation_files import container_of, records
from stages.benchmarks.layouts.keys import KEY_LAYOUTS, KeyRow, key_kind
from stages.benchmarks.manifest import BenchmarkManifest, split_name
from stages.benchmarks.readers import SAMPLE, normal_code
from stages.core.errors import DataError


def key_layout(path: Path) -> str:
    """Which kind of answer key `path` is, by content; an empty string if it is none.

    Raises:
        MissingInput: no such file. DataError: the file cannot be read at all.
    """
    container = container_of(path)
    if container == "csv":
        return ""
    first = itertools.islice(records(path, container), SAMPLE)
    return key_kind(container, [list(record) for _, record in first if isinstance(record, dict)])


def read_key(manifest: BenchmarkManifest, split: str, path: Path) -> list[KeyRow]:
    """The answers of an answer key, in the file's order.

    Raises:
        DataError: not a key that the benchmark accepts, a row that cannot be read, an id that
            occurs twice. UsageError: no such split. MissingInput: no such file.
    """
    split_name(manifest, split)
    kind = key_layout(path)
    if kind not in manifest.keys:
        seen = f"an answer key of the kind {kind}" if kind else "no answer key"
        accepted = ", ".join(manifest.keys) or "none"
        raise DataError(f"{path} is {seen}", f"keys of {manifest.name}: {accepted}")
    rows: dict[str, KeyRow] = {}
    for number, record in records(path, container_of(path)):
        if isinstance(record, str):
            raise DataError(f"{path}: row {number}: {record}")
        try:
            parsed = [_named(row, manifest) for row in KEY_LAYOUTS[kind].parse(record)]
        except DataError as error:
            raise DataError(f"{path}: row {number}: {error.message}") from None
        for row in parsed:
            if row.question_id in rows:
                raise DataError(f"{path}: row {number}: {row.question_id!r} occurs a second time")
            rows[row.question_id] = row
    return list(rows.values())


def _named(row: KeyRow, manifest: BenchmarkManifest) -> KeyRow:
    """The row with its categories under the names that are reported."""
    if not row.categories:
        return row
    names = manifest.category_names
    plain = [normal_code(code) for code in row.categories]
    return dataclasses.replace(
        row, categories=tuple(dict.fromkeys(names.get(code, code) for code in plain))
    )
