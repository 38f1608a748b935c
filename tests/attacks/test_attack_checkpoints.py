"""Files made to harm whoever opens them: refused with one sentence, nothing run, memory bounded.

Every attack goes through the real command, in a process of its own where memory is measured. A
pickle that would be executed leaves a file behind.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stages.checkpoints.pickle_structure import MAX_INSTRUCTIONS, MAX_PICKLE_BYTES
from stages.checkpoints.tensor_files import open_checkpoint
from stages.core.errors import DataError

GOOD = {"model": {"Qformer.bert.a": torch.arange(6.0).reshape(2, 3)}}
MEMORY_LIMIT = 1 << 30
BIG = b"9" * 4300
"""The longest number that Python reads, and with one added no longer writes."""
FEW_MEGABYTES = 300

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from vqa_cli.main import run_command
code = run_command(sys.argv[1:] + ["--json"])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(code, int(peak.split()[1]) // 1024, file=sys.stderr)
"""


def refused(vqa: Callable[..., Any], path: Path, about: str, code: int = 3) -> dict[str, str]:
    """Both `inspect` and `import` end with this exit code and one sentence about it."""
    rest = ("--as", "vlap", "--base", "tiny", "-b", "shapes", "--frames", 4)
    workspace = path.parent / "workspace"
    for command in (("inspect", path), ("import", path, *rest, "-w", workspace)):
        outcome = vqa("checkpoint", *command)
        assert (outcome.code, outcome.json["error"]["code"]) == (code, code), outcome.json
        message = outcome.json["error"]["message"]
        assert about in message, message
        assert path.name in message
        assert "\n" not in message
    assert not workspace.exists()
    return dict(outcome.json["error"])


def refused_in_little_memory(path: Path, about: str) -> None:
    """`inspect` in a process that may not take a gigabyte of address space."""
    source = LIMITED.format(limit=MEMORY_LIMIT)
    done = subprocess.run(
        [sys.executable, "-c", source, "checkpoint", "inspect", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, peak = (int(word) for word in done.stderr.split()[-2:])
    assert code == 3, done.stdout
    assert peak < FEW_MEGABYTES
    assert about in json.loads(done.stdout)["error"]["message"]


def archive(path: Path, pickled: bytes, **data: bytes) -> Path:
    """An archive as torch.save lays it out, around a pickle of ours."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as made:
        made.writestr("x/data.pkl", pickled)
        for key, value in (data or {"0": bytes(24)}).items():
            made.writestr(f"x/data/{key}", value)
    return path


class Runs:
    """Pickles as a call of `os.system` that writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


# --- code in pickles -----------------------------------------------------------------------------


def test_a_pickle_that_calls_a_shell_is_refused_unrun(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    trace = tmp_path / "was-run"
    path = tmp_path / "evil.pth"
    torch.save({"model": {"Qformer.a": torch.zeros(2), "payload": Runs(trace)}}, path)
    error = refused(vqa, path, "it names posix.system")
    assert "nothing in the file was executed" in error["hint"]
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the attack is real: this is what others do
    assert trace.exists()


@pytest.mark.parametrize(
    ("call", "about"),
    [
        (b"cbuiltins\neval\n", "builtins.eval"),
        (b"cbuiltins\nbytearray\n", "builtins.bytearray"),
        (b"ctorch\nload\n", "torch.load"),
        (b"ctorch.hub\nload\n", "torch.hub.load"),
        (b"c__main__\nx\n", "__main__.x"),
        (b"ctorch.serialization\nload\n", "torch.serialization.load"),
        (b"ccollections\nOrderedDict.__init__\n", "OrderedDict.__init__"),
    ],
)
def test_no_name_beyond_tensors_is_looked_up(
    vqa: Callable[..., Any], tmp_path: Path, call: bytes, about: str
) -> None:
    pickled = b"\x80\x02}X\x01\x00\x00\x00a" + call + b"X\x01\x00\x00\x001\x85Rs."
    refused(vqa, archive(tmp_path / "evil.pth", pickled), about)


def test_calls_within_calls_are_refused(vqa: Callable[..., Any], tmp_path: Path) -> None:
    # What OrderedDict() returns is called in turn.
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R)R."
    refused(vqa, archive(tmp_path / "one.pth", pickled), "calls something that is no name")
    # A tensor whose storage is itself the result of a call.
    inner = b"ccollections\nOrderedDict\n)R"
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + inner + b"K\x00))\x89NtR."
    refused(vqa, archive(tmp_path / "two.pth", pickled), "a tensor that cannot be")


@pytest.mark.parametrize("code", [b"i", b"o", b"\x81", b"\x82", b"\x93", b"I", b"0", b"\x95"])
def test_instructions_that_torch_does_not_write_are_refused(
    vqa: Callable[..., Any], tmp_path: Path, code: bytes
) -> None:
    pickled = b"\x80\x02}" + code + b"os\nsystem\n."
    refused(vqa, archive(tmp_path / "evil.pth", pickled), "instruction")


def test_a_persistent_id_that_is_no_storage_is_refused(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    pickled = b"\x80\x02(X\x06\x00\x00\x00moduleX\x02\x00\x00\x00osX\x01\x00\x00\x000NK\x01tQ."
    refused(vqa, archive(tmp_path / "evil.pth", pickled), "no storage")


@pytest.mark.parametrize("identity", [b")", b"X\x05\x00\x00\x00abcde", b"N", b"]", b"K\x01\x85"])
def test_a_persistent_id_of_another_form_is_refused(tmp_path: Path, identity: bytes) -> None:
    path = archive(tmp_path / "evil.pth", b"\x80\x02" + identity + b"Q.")
    with pytest.raises(DataError, match="no storage"):
        open_checkpoint(path)


def named(name: bytes) -> bytes:
    """A pickle of one tensor called `name`."""
    key = b"X" + struct.pack("<I", len(name)) + name
    return b"\x80\x02}" + key + tensor(24, 6) + b"s."


@pytest.mark.parametrize(
    "name", ["\x1b]0;owned\x07", "a\x1b[2J", "a\nb", "a\x9bb", "a\u202eb", "\ud800"]
)
def test_names_that_would_command_a_terminal_are_refused(
    vqa: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    pickled = archive(tmp_path / "evil.pth", named(name.encode("utf-8", "surrogatepass")))
    refused(vqa, pickled, ascii(name).strip("'"))
    held = header(tmp_path / "evil.safetensors", {name: entry(0, 16)}, bytes(16))
    refused(vqa, held, ascii(name).strip("'"))


def test_a_name_that_a_pickle_asks_for_is_told_in_printable_letters(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    path = archive(tmp_path / "evil.pth", b"\x80\x02cos\n\x1b[2Jsystem\n.")
    assert "\x1b" not in str(refused(vqa, path, "it names 'os.\\x1b[2Jsystem'"))


def test_names_in_other_scripts_are_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "good.pth", named("größe der 層".encode()))
    assert list(open_checkpoint(path).tensors) == ["größe der 層"]


def test_a_pipe_is_refused_and_not_waited_for(vqa: Callable[..., Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    outcome = vqa("checkpoint", "inspect", tmp_path / "pipe.pth")
    assert outcome.code == 3
    assert "neither a file nor a folder" in outcome.json["error"]["message"]


def test_a_bare_pickle_is_refused_unread(vqa: Callable[..., Any], tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    path = tmp_path / "old.pth"
    path.write_bytes(pickle.dumps(Runs(trace), protocol=2))
    error = refused(vqa, path, "is a bare pickle")
    assert "torch.save(torch.load" in error["hint"]
    assert not trace.exists()
    torch.save(GOOD, path, _use_new_zipfile_serialization=False)
    refused(vqa, path, "is a bare pickle")


def test_a_folder_of_pickles_is_refused_unread(vqa: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "blip-2"}')
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(tmp_path / "was-run")))
    refused(vqa, folder, "pickled weights")
    assert not (tmp_path / "was-run").exists()


# --- bombs ---------------------------------------------------------------------------------------


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        with made.open("x/data.pkl", "w") as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    refused(vqa, path, "is compressed")
    refused_in_little_memory(path, "that unpack to 67,108,864")


def stored(name: bytes, data: bytes) -> bytes:
    """A member as it lies in the archive: local header, name, bytes."""
    sizes = struct.pack("<3L", 0, len(data), len(data))
    head = struct.pack("<4s5H", b"PK\x03\x04", 20, 0, 0, 0, 0)
    return head + sizes + struct.pack("<2H", len(name), 0) + name + data


def listed(name: bytes, size: int, at: int) -> bytes:
    """Its entry in the directory."""
    head = struct.pack("<4s6H3L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, size, size)
    return head + struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, at) + name


def test_members_over_each_other_are_refused(vqa: Callable[..., Any], tmp_path: Path) -> None:
    """One member's bytes hold another member: the kernel of every overlapping zip bomb."""
    inner = stored(b"x/data/0", bytes(24))
    pickled = one_tensor(tensor(24, 6))
    outer = stored(b"x/data/1", inner)
    first = stored(b"x/data.pkl", pickled)
    entries = [
        listed(b"x/data.pkl", len(pickled), 0),
        listed(b"x/data/1", len(inner), len(first)),
        listed(b"x/data/0", 24, len(first) + len(outer) - len(inner)),
    ]

    def write(name: str, directory: bytes, count: int) -> Path:
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory),
                          len(first + outer), 0)  # fmt: skip
        (tmp_path / name).write_bytes(first + outer + directory + end)
        return tmp_path / name

    refused(vqa, write("overlap.pth", b"".join(entries), 3), "member 'x/data/0' lies over")
    twice = write("twice.pth", b"".join([*entries[:2], entries[1]]), 3)
    refused(vqa, twice, "two members of one name")


@pytest.mark.parametrize("at", [2**63 + 5, 2**63 - 1, 1 << 40, 2**64 - 1])
def test_a_member_that_lies_beyond_the_file_is_refused(
    vqa: Callable[..., Any], tmp_path: Path, at: int
) -> None:
    pickled = one_tensor(tensor(24, 6))
    member = stored(b"x/data.pkl", pickled)
    entry_64 = listed(b"x/data.pkl", len(pickled), 0xFFFFFFFF)
    extra = struct.pack("<2HQ", 1, 8, at)
    directory = entry_64[:30] + struct.pack("<H", len(extra)) + entry_64[32:] + extra
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(member), 0)
    path = tmp_path / "far.pth"
    path.write_bytes(member + directory + end)
    refused(vqa, path, "is not where the directory says")


def test_a_directory_larger_than_any_models_is_refused(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "many.pth"
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 0x7FFFFFFF, 0, 0)
    path.write_bytes(b"PK\x03\x04" + bytes(1000) + tail)
    refused(vqa, path, "in a directory of 2,147,483,647 bytes")


def test_a_pickle_of_a_million_containers_stays_small(tmp_path: Path) -> None:
    pickled = b"\x80\x02" + b"}" * (MAX_INSTRUCTIONS + 10) + b"."
    path = archive(tmp_path / "wide.pth", pickled)
    refused_in_little_memory(path, "instructions")


def test_a_pickle_that_grows_by_references_is_walked_once(tmp_path: Path) -> None:
    """Ten references to one list on each of a hundred levels: 10^100 of them, if one followed."""
    nest: list[Any] = []
    for _ in range(100):
        nest = [nest] * 10
    path = tmp_path / "laughs.pth"
    torch.save({**GOOD, "optimizer": nest}, path)
    assert open_checkpoint(path).left_overs["optimizer"].tensors == 0
    torch.save({"model": nest}, path)
    refused_in_little_memory(path, "holds no tensors")


def tensor(size: int, elements: int) -> bytes:
    """A float32 tensor of `elements` in storage 0 of `size` bytes."""
    count = struct.pack("<i", size // 4)
    length = struct.pack("<i", elements)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ" + count + b"tQK\x00J" + length + b"\x85K\x01\x85"
        b"\x89ccollections\nOrderedDict\n)RtR"
    )


def one_tensor(body: bytes) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + body + b"s."


@pytest.mark.parametrize(
    ("body", "about"),
    [
        (tensor(24, 7), "reaches beyond its storage"),
        (tensor(24, 0x7FFFFFFF), "reaches beyond its storage"),
        (tensor(24, -1), "a tensor that cannot be"),
        (tensor(1 << 30, 6), "is declared with 268,435,456 elements"),
        (tensor(24, 6).replace(b"FloatStorage", b"EvilStorage_"), "torch.EvilStorage_"),
        (tensor(24, 6).replace(b"\x85K\x01\x85", b"\x85K\x00\x85").replace(
            struct.pack("<i", 6) + b"\x85", struct.pack("<i", 1 << 30) + b"\x85"), "repeats"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_in_the_file_are_refused(
    vqa: Callable[..., Any], tmp_path: Path, body: bytes, about: str
) -> None:
    assert open_checkpoint(archive(tmp_path / "good.pth", one_tensor(tensor(24, 6)))).tensors
    refused(vqa, archive(tmp_path / "evil.pth", one_tensor(body)), about)


def test_keys_that_hash_without_end_are_refused(tmp_path: Path) -> None:
    nested = b")" + b"\x85" * 200_000
    path = archive(tmp_path / "deep.pth", b"\x80\x02}" + nested + b"Ns.")
    refused_in_little_memory(path, "a tuple as a key")


def test_a_pickle_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "long.pth", b"\x80\x02" + b"N" * MAX_PICKLE_BYTES + b".")
    refused_in_little_memory(path, "more than 16,777,216")


# --- cut short -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_archive_is_refused(
    vqa: Callable[..., Any], tmp_path: Path, share: float
) -> None:
    path = tmp_path / "cut.pth"
    torch.save(GOOD, path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    refused(vqa, path, "cut.pth")


def test_every_cut_and_every_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(GOOD, path)
    raw = path.read_bytes()
    for place in range(0, len(raw), 9):
        for damaged in (raw[:place], raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :]):
            path.write_bytes(damaged)
            try:
                found = open_checkpoint(path)
                dict(found.read(found.tensors))
            except DataError:
                continue


def test_a_member_under_two_names_is_refused(vqa: Callable[..., Any], tmp_path: Path) -> None:
    """What the directory calls data.pkl is called otherwise where it lies."""
    path = archive(tmp_path / "evil.pth", one_tensor(tensor(24, 6)))
    path.write_bytes(path.read_bytes().replace(b"x/data.pkl", b"x/evil.pkl", 1))
    refused(vqa, path, "has another name where it lies")


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_safetensors_file_is_refused(
    vqa: Callable[..., Any], tmp_path: Path, keep: int
) -> None:
    path = tmp_path / "cut.safetensors"
    save_file(GOOD["model"], path)
    path.write_bytes(path.read_bytes()[:keep])
    refused(vqa, path, "cut.safetensors")


# --- safetensors headers -------------------------------------------------------------------------


def header(path: Path, value: object, data: bytes = bytes(64), length: int | None = None) -> Path:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> Any:
    given = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": given, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("value", "about"),
    [
        ({"a": entry(0, 16), "b": entry(8, 24)}, "lies over 'a'"),
        ({"a": entry(0, 16), "b": entry(0, 16)}, "lies over"),
        ({"a": entry(0, 4096)}, "ends at byte"),
        ({"a": entry(0, 16, [1 << 40])}, "does not fill"),
        ({"a": entry(0, 16, [1 << 62, 4])}, "does not fill"),
        ({"a": entry(0, 16, [-4])}, "is no size"),
        ({"a": entry(-16, 0)}, "is no size"),
        ({"a": entry(0, 16, [4.0])}, "is no size"),
        ({"a": entry(0, 16, [True, 4])}, "is no size"),
        ({"a": entry(0, 16, [1 << 63])}, "is no size"),
        ({"a": entry(0, 16, [1 << 62] * 100_000)}, "100,000 dimensions"),
        (b'{"a":{"dtype":"I8","shape":[0],"data_offsets":[%s,%s]}}' % (BIG, BIG), "is no size"),
        ({"a": entry(0, 16, dtype="PICKLE")}, "'PICKLE' is unknown"),
        ({"a": {"dtype": "F32"}}, "damaged"),
        ({"a": [1, 2]}, "damaged"),
        ([1, 2], "damaged"),
        (b'{"a": ', "damaged"),
        (b"\xff\xfe{}", "damaged"),
        (b'{"a": 1, "a": 2}', "declared twice"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_headers_that_lie_are_refused(
    vqa: Callable[..., Any], tmp_path: Path, value: object, about: str
) -> None:
    refused(vqa, header(tmp_path / "evil.safetensors", value), about)


@pytest.mark.parametrize("length", [1 << 20, 1 << 34, (1 << 64) - 1])
def test_headers_longer_than_the_file_are_refused(
    vqa: Callable[..., Any], tmp_path: Path, length: int
) -> None:
    path = header(tmp_path / "evil.safetensors", {"a": entry(0, 16)}, length=length)
    refused(vqa, path, f"declares a header of {length:,} bytes")


def test_a_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", (1 << 30) - 8) + b"{")
        file.truncate(1 << 30)
    refused_in_little_memory(path, "declares a header of")


def test_the_longest_header_of_empty_lists_stays_small(tmp_path: Path) -> None:
    path = header(tmp_path / "evil.safetensors", b'{"a":[' + b"[]," * 2_000_000 + b"0]}")
    refused_in_little_memory(path, "damaged")


def test_an_index_cannot_lead_out_of_its_folder(vqa: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(GOOD["model"], tmp_path / "secret.safetensors")
    (folder / "config.json").write_text('{"model_type": "blip-2"}')
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    outcome = vqa("checkpoint", "inspect", folder)
    assert outcome.code == 3
    assert "refused shard name" in outcome.json["error"]["message"]


def test_the_memory_limit_of_these_tests_bites() -> None:
    """Without it a bomb would pass unseen."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))"
    done = subprocess.run(
        [sys.executable, "-c", f"{limit}; bytes(2 << 30)"], capture_output=True, text=True
    )
    assert "MemoryError" in done.stderr
