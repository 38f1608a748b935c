"""Files that anyone may have written: sizes are bounded, damage is named, nothing blocks."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.benchmarks import annotation_files
from stages.benchmarks.annotation_files import (
    KEY,
    MAX_RECORD,
    container_of,
    list_in_object,
    open_text,
    records,
)
from stages.core.errors import DataError, MissingInput


def test_gzip_is_recognised_by_content_and_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert container_of(path) == "csv"
    assert list(records(path, "csv")) == [(1, {"a": "1", "b": "2"})]


def test_a_file_that_unfolds_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_files, "GZIP_RATIO_FROM", 2**20)
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        for _ in range(8):
            stream.write(b'{"a": 1}\n' * (2**20 // 9))
    with pytest.raises(DataError, match="unfolds to more than"):
        for _ in records(path, "jsonl"):
            pass


@pytest.mark.parametrize("kept", [2, 10, 60, -9])
def test_a_gzip_file_that_breaks_off_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.jsonl.gz"
    data = gzip.compress("".join(f'{{"n": {n}}}\n' for n in range(50)).encode())
    path.write_bytes(data[:kept])
    with pytest.raises(DataError, match="damaged gzip"):
        list(records(path, "jsonl"))


def test_flipped_bytes_in_a_gzip_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "flipped.jsonl.gz"
    data = bytearray(gzip.compress(os.urandom(4000).hex().encode()))
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged gzip"):
        list(records(path, "jsonl"))


@pytest.mark.parametrize("container", ["csv", "jsonl"])
def test_an_endless_line_is_refused(tmp_path: Path, container: str) -> None:
    path = tmp_path / "long"
    path.write_text("a,b\n" if container == "csv" else "{}\n")
    with path.open("a") as stream:
        stream.write("x" * (MAX_RECORD + 10))
    with pytest.raises(DataError, match="line 2 is longer"):
        list(records(path, container))  # type: ignore[arg-type]


def test_an_endless_record_in_a_list_is_refused_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text('[{"a": 1}, {"b": "' + "x" * (3 * MAX_RECORD))
    began = time.monotonic()
    with pytest.raises(DataError, match="row 2"):
        list(records(path, "json"))
    assert time.monotonic() - began < 20


def test_a_record_beyond_the_limit_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps([{"a": "x" * 5000}]))
    monkeypatch.setattr(annotation_files, "CHUNK", 100)
    assert len(list(records(path, "json"))) == 1
    monkeypatch.setattr(annotation_files, "MAX_RECORD", 1000)
    with pytest.raises(DataError, match="row 1"):
        list(records(path, "json"))


def test_deep_nesting_in_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text('[{"a": ' + "[" * 200_000)
    with pytest.raises(DataError, match="row 1"):
        list(records(path, "json"))


def test_a_pipe_a_folder_and_nothing_do_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="not a regular file"):
        container_of(pipe)
    with pytest.raises(DataError, match="not a regular file"):
        container_of(tmp_path)
    with pytest.raises(MissingInput):
        container_of(tmp_path / "absent")


def test_a_list_is_read_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    record = json.dumps({"text": "word " * 2000})
    with path.open("w") as stream:
        stream.write("[\n" + ",\n".join(itertools.repeat(record, 4000)) + "\n]\n")
    assert path.stat().st_size > 35 * 2**20
    tracemalloc.start()
    count = sum(1 for _ in records(path, "json"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    assert peak < 12 * 2**20


def test_an_open_quote_costs_its_own_line_only(tmp_path: Path) -> None:
    path = tmp_path / "quotes.csv"
    path.write_text('a,b\n"open,1\n' + "".join(f"{n},x\n" for n in range(500)))
    rows = list(records(path, "csv"))
    assert len(rows) == 501
    assert rows[0] == (1, "not CSV: a quote is not closed")
    assert rows[1:] == [(n + 2, {"a": str(n), "b": "x"}) for n in range(500)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.dictionaries(st.text(max_size=4), st.text(max_size=8) | st.integers(), max_size=3)
    ),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
)
def test_a_list_reads_the_same_wherever_the_pieces_are_cut(
    tmp_path: Path, values: list[dict[str, object]], chunk: int, indent: int | None
) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(values, indent=indent))
    before, annotation_files.CHUNK = annotation_files.CHUNK, chunk
    try:
        assert list(records(path, "json")) == list(enumerate(values, 1))
    finally:
        annotation_files.CHUNK = before


def test_text_files_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n")
    with open_text(path) as text:
        pass
    assert text.closed


@pytest.mark.parametrize(
    ("text", "container"),
    [
        ('{"a": 1}\n{"a": 2}\n', "jsonl"),
        ('{"a": {"b": 1}}\n{"a": {"b": 2}}\n', "jsonl"),
        ('{"a": 1}\n', "jsonl"),
        ('{"a": oops}\n{"a": 2}\n', "jsonl"),
        ('{"a\n{"a": 2}\n', "jsonl"),
        ("{}\n{}\n", "jsonl"),
        ('{"x": {"a": 1}, "y": {"a": 2}}', "keyed"),
        ('{"x": {"a": 1}}', "keyed"),
        ('{"x": {"a": 1}}\n}\n', "keyed"),
        ('{\n  "x": {"a": 1},\n  "y": {"a": 2}\n}\n', "keyed"),
        ('{"x": {"a": 1},\n"y": {"a": 2}}', "keyed"),
        ('{\n  "split": "val",\n  "solution": {}\n}\n', "object"),
        ('  [{"a": 1}]', "json"),
        ("a,b\n1,2\n", "csv"),
    ],
)
def test_containers_are_told_apart_by_content(tmp_path: Path, text: str, container: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    assert container_of(path) == container


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_delimiter_is_seen_from_the_rows(tmp_path: Path, delimiter: str, end: str) -> None:
    path = tmp_path / "table"
    rows = [["id", "text"], ["1", "one; two, three\nand\tfour"], ["2", 'say "no"'], ["3", "x"]]
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows(rows)
    assert [record for _, record in records(path, "csv")] == [
        dict(zip(rows[0], row, strict=True)) for row in rows[1:]
    ]
    headerless = [record for _, record in records(path, "rows")]
    assert headerless[1] == {"column 1": "1", "column 2": rows[1][1]}


def test_a_keyed_object_is_read_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    record = json.dumps({"text": "word " * 2000})
    with path.open("w") as stream:
        stream.write("{" + ", ".join(f'"k{number}": {record}' for number in range(4000)) + "}")
    assert container_of(path) == "keyed"
    tracemalloc.start()
    count = sum(1 for _, value in records(path, "keyed") if isinstance(value, dict))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000
    assert peak < 12 * 2**20


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.text(max_size=6), st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=3)
    ),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
)
def test_a_keyed_object_reads_the_same_wherever_the_pieces_are_cut(
    tmp_path: Path, values: dict[str, dict[str, str]], chunk: int, indent: int | None
) -> None:
    path = tmp_path / "keyed.json"
    path.write_text(json.dumps(values, indent=indent))
    before, annotation_files.CHUNK = annotation_files.CHUNK, chunk
    try:
        found = [record for _, record in records(path, "keyed")]
    finally:
        annotation_files.CHUNK = before
    assert found == [{**value, KEY: key} for key, value in values.items()]


def test_a_value_that_is_no_object_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "keyed.json"
    path.write_text('{"a": {"x": 1}, "b": 3, "c": {"x": 2}}')
    assert list(records(path, "keyed")) == [
        (1, {"x": 1, KEY: "a"}),
        (2, "not a JSON object"),
        (3, {"x": 2, KEY: "c"}),
    ]


def test_a_list_within_an_object_is_read_item_by_item(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"info": {"sentences": []}, "n": [1], "sentences": [{"a": 1}, 2]}))
    assert list(list_in_object(path, "sentences")) == [(1, {"a": 1}), (2, 2)]
    with pytest.raises(DataError, match="no list named 'other'"):
        list(list_in_object(path, "other"))


def test_a_bracket_too_many_is_counted_and_other_text_refused(tmp_path: Path) -> None:
    path = tmp_path / "keyed.json"
    path.write_text('{"a": {"x": 1}}\n}\n')
    odd: Counter[str] = Counter()
    assert len(list(records(path, "keyed", odd))) == 1
    assert odd.total() == 1
    path.write_text('{"a": {"x": 1}}, {"b": {}}')
    with pytest.raises(DataError, match="text follows"):
        list(records(path, "keyed"))
