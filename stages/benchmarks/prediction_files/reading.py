"""Prediction files of any maker: the container and the form are seen from the content.

    text      JSON (an object or a list), JSON lines, CSV or TSV; gzipped or not
    .parquet  a table with `question_id` and `prediction`, such as `predictions.parquet`; in
              retrieval with `scores`, and `videos.json` beside it
    .npz .npy a retrieval score matrix, texts x videos

Reads one file and writes nothing. A value that is no usable prediction is not judged here.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.artifacts.clips import read_table
from stages.artifacts.predictions import VIDEOS_FILE
from stages.benchmarks.annotation_files import csv_header, open_text, records
from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.prediction_files.forms import (
    FORMS,
    fields_of,
    object_form,
    object_given,
    record_form,
    record_given,
)
from stages.benchmarks.prediction_files.given import Given, PredictionFile
from stages.core.errors import DataError, MissingInput

MATRIX_NAMES = ("sim", "sims", "scores", "similarity", "sim_matrix")
MAX_UNPACKED = 8 * 2**30
"""Bytes that a packed matrix may unfold to."""
SHOWN = 5


def read_predictions(
    path: Path, manifest: BenchmarkManifest, *, as_published: bool = False
) -> PredictionFile:
    """What a prediction file says, in whichever known form.

    Raises:
        MissingInput: No such file. DataError: Not a known form, damaged, empty, or an id twice.
    """
    if not path.exists():
        raise MissingInput(f"prediction file not found: {path}", "check --predictions")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file")
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith((b"PK\x03\x04", b"\x93NUMPY")):
        return PredictionFile(path, "score-matrix", (), read_matrix(path))
    if head.startswith(b"PAR1"):
        read = _from_parquet(path, manifest)
    else:
        read = _from_text(path, manifest, as_published)
    if not read.given:
        raise DataError(f"{path} holds no prediction")
    _refuse_duplicates(read)
    return read


def _refuse_duplicates(read: PredictionFile) -> None:
    counts = Counter(item.question_id for item in read.given)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        shown = ", ".join(repr(name) for name in twice[:SHOWN])
        places = [item.place for item in read.given if item.question_id == twice[0]]
        raise DataError(
            f"{read.path}: {len(twice)} questions occur more than once: {shown}; "
            f"{twice[0]!r} at {' and '.join(places[:2])}",
            "keep one prediction per question",
        )


# --- text ------------------------------------------------------------------------------------


def _from_text(path: Path, manifest: BenchmarkManifest, as_published: bool) -> PredictionFile:
    with open_text(path) as text:
        content = text.read()
    start = content.lstrip()[:1]
    if not start:
        raise DataError(f"{path} is empty")
    if start not in "[{":
        return _from_table(path, manifest, as_published)
    value = _json_value(content, path)
    if isinstance(value, dict):
        return _from_object(value, path, manifest, as_published)
    word = "entry" if start == "[" else "line"
    numbered = [(f"{path.name}: {word} {number}", item) for number, item in value]
    return _from_records(numbered, path, manifest, as_published)


def _json_value(content: str, path: Path) -> dict[str, Any] | list[tuple[int, Any]]:
    """One object, or the numbered items of a list or of lines."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    begin = len(content) - len(content.lstrip())
    try:
        value, end = decoder.raw_decode(content, begin)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply") from None
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from None
    except ValueError as error:
        # Not one value: perhaps a line of its own is damaged, which can be named.
        if content[begin] == "{" and content.count("\n"):
            return _lines(content, path, decoder)
        raise DataError(f"{path} is not JSON: {error}") from None
    if not content[end:].strip():
        return value if isinstance(value, dict) else list(enumerate(value, 1))
    if isinstance(value, dict) and content[end:].lstrip().startswith("{"):
        return _lines(content, path, decoder)
    raise DataError(f"{path}: text follows after the JSON value's end")


def _lines(content: str, path: Path, decoder: json.JSONDecoder) -> list[tuple[int, Any]]:
    items = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            items.append((number, decoder.decode(line)))
        except DataError as error:
            raise DataError(f"{path}: line {number}: {error.message}", error.hint) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON: {error}") from None
    return items


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, refused when a key occurs twice: the decoder would keep the last one silently."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = [key for key, count in counts.items() if count > 1]
        shown = ", ".join(repr(key) for key in twice[:SHOWN])
        raise DataError(
            f"{len(twice)} keys of one JSON object occur more than once: {shown}",
            "keep one prediction per question",
        )
    return value


def _from_object(
    value: dict[str, Any], path: Path, manifest: BenchmarkManifest, as_published: bool
) -> PredictionFile:
    if any(form.fits(frozenset(value)) for form in FORMS):  # a single line of JSON lines
        return _from_records([(f"{path.name}: line 1", value)], path, manifest, as_published)
    form = object_form(value, path.name)
    given = tuple(object_given(form, value, manifest, path.name))
    return PredictionFile(path, form, given)


def _from_records(
    numbered: Sequence[tuple[str, Any]],
    path: Path,
    manifest: BenchmarkManifest,
    as_published: bool,
) -> PredictionFile:
    for place, item in numbered:
        if not isinstance(item, dict):
            raise DataError(f"{place} is not a JSON object")
    if not numbered:
        raise DataError(f"{path} holds no prediction")
    form = record_form(fields_of([item for _, item in numbered]), path.name, as_published)
    return PredictionFile(path, form.name, tuple(record_given(form, numbered, manifest)))


def _from_table(path: Path, manifest: BenchmarkManifest, as_published: bool) -> PredictionFile:
    form = record_form(csv_header(path), path.name, as_published)
    numbered = []
    for row, record in records(path, "csv"):
        if isinstance(record, str):
            raise DataError(f"{path}: row {row}: {record}")
        cells = {name: cell for name, cell in record.items() if cell != ""}
        numbered.append((f"{path.name}: row {row}", cells))
    given = tuple(record_given(form, numbered, manifest))
    return PredictionFile(path, f"{form.name}-table", given, text_cells=True)


def _from_parquet(path: Path, manifest: BenchmarkManifest) -> PredictionFile:
    table = read_table(path)
    if manifest.scorer == "retrieval" and _scores_videos(table):
        return _from_ranking(path, table.to_pylist())
    form = record_form(table.column_names, path.name, as_published=False)
    columns = set(table.column_names)
    also = {"status", "reason", "type", "video", "saliency"}
    wanted = {form.id, form.value, *form.truth, *also} & columns
    rows = enumerate(table.select(sorted(wanted)).to_pylist(), 1)
    numbered = [(f"{path.name}: row {row}", record) for row, record in rows]
    return PredictionFile(path, f"{form.name}-table", tuple(record_given(form, numbered, manifest)))


def _scores_videos(table: pa.Table) -> bool:
    """Whether it holds scores of all videos instead of a list of the best ones."""
    columns = {field.name: field.type for field in table.schema}
    return "scores" in columns and not pa.types.is_list(columns.get("prediction", pa.null()))


def _from_ranking(path: Path, rows: Sequence[dict[str, Any]]) -> PredictionFile:
    """Our own retrieval predictions: a score for each of the videos that a file beside it names."""
    names = _video_names(path.with_name(VIDEOS_FILE))
    given = tuple(
        Given(
            question_id=str(row["question_id"]),
            value=None if row.get("status") == "failed" else row["scores"],
            place=f"{path.name}: row {number}",
            video=row.get("answer"),
            reason=str(row.get("reason") or ""),
        )
        for number, row in enumerate(rows, 1)
    )
    return PredictionFile(path, "ranking-table", given, videos=names)


def _video_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise MissingInput(
            f"{path} not found: nothing says which videos the scores are about",
            "leave the table in its artifact's folder, or give the artifact's id",
        )
    try:
        names = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} is not a list of names")
    return tuple(names)


# --- matrices --------------------------------------------------------------------------------


def read_matrix(path: Path) -> NDArray[np.float64]:
    """The retrieval scores [texts, videos] of an .npz or .npy file; nothing is unpickled.

    Raises:
        DataError: Damaged, several arrays, or not a matrix of numbers.
    """
    try:
        if zipfile.is_zipfile(path):
            _refuse_oversize(path)
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else _chosen_array(loaded, path)
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a score matrix: {error}") from None
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.size:
        raise DataError(f"{path}: not a matrix of numbers: {array.dtype} {list(array.shape)}")
    return array.astype(np.float64)


def _refuse_oversize(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > MAX_UNPACKED:
        raise DataError(f"{path} unfolds to {size:,} bytes; it is refused")


def _chosen_array(archive: Any, path: Path) -> NDArray[Any]:
    names = list(archive.files)
    known = [name for name in MATRIX_NAMES if name in names]
    if len(names) != 1 and len(known) != 1:
        raise DataError(
            f"{path} holds {len(names)} arrays: {', '.join(names[:10])}",
            f"keep one, or call it {MATRIX_NAMES[0]!r}",
        )
    array: NDArray[Any] = archive[known[0] if known else names[0]]
    return array
