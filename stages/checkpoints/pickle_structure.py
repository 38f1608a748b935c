"""What a `data.pkl` of `torch.save` would build, told without building it.

A pickle is a program. This reader follows the few instructions that a checkpoint of tensors and
plain values consists of and makes plain values of them; a tensor becomes a `PickledTensor` that
says where its bytes lie. Nothing that the pickle names is imported or called: a name that is not
on the list below ends the reading. Recursion, sizes and counts are bounded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 16 << 20
MAX_INSTRUCTIONS = 1_000_000
"""Some sixty thousand tensors with an optimizer's state."""
MAX_LINE = 1000
MAX_DIMENSIONS = 8

STORAGES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}  # fmt: skip
"""torch's storage types: name of the tensors' type and bytes of one element."""
DTYPES = {name for name, _ in STORAGES.values()}
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
ORDERED = "collections.OrderedDict"
SIZE = "torch.Size"
DEVICE = "torch.device"
KNOWN_NAMES = {
    TENSOR, PARAMETER, ORDERED, SIZE, DEVICE,
    *(f"torch.{name}" for name in STORAGES), *(f"torch.{name}" for name in DTYPES),
}  # fmt: skip


class PickleRefused(ValueError):
    """The pickle holds something else than tensors and plain values, or is damaged."""


@dataclass(frozen=True)
class Storage:
    """Bytes of one archive member that tensors are views of."""

    key: str
    dtype: str
    item: int
    elements: int


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage; sizes in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Name:
    """A name that the pickle asks for; never looked up."""

    name: str


_MARK = object()


def read_structure(data: bytes, sizes: Mapping[str, int]) -> Any:
    """The value of a pickle: dicts, lists, tuples, numbers, text and `PickledTensor`.

    Args:
        data: The pickle.
        sizes: Bytes of each storage, by key.

    Raises:
        PickleRefused: It names or does something that a checkpoint has no need of, or is damaged.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise PickleRefused(f"its pickle has {len(data):,} bytes, more than {MAX_PICKLE_BYTES:,}")
    try:
        return _Reader(data, sizes).run()
    except PickleRefused:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise PickleRefused(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Reader:
    """One pass over the instructions."""

    def __init__(self, data: bytes, sizes: Mapping[str, int]) -> None:
        self.data, self.sizes = data, sizes
        self.position = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value on top of the stack at the last instruction."""
        for _ in range(MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            if code not in _STEPS:
                raise PickleRefused(f"its pickle uses the instruction {code!r}")
            _STEPS[code](self)
        raise PickleRefused(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")

    # --- reading -----------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next bytes."""
        found = self.data[self.position : self.position + count]
        if len(found) < count:
            raise PickleRefused("its pickle ends early")
        self.position += count
        return found

    def number(self, form: str) -> Any:
        """The next number in a `struct` form."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def counted(self, form: str) -> bytes:
        """The next bytes, after their count."""
        return self.take(self.number(form))

    def line(self) -> str:
        """Text up to the end of the line."""
        end = self.data.find(b"\n", self.position, self.position + MAX_LINE)
        if end < 0:
            raise PickleRefused("its pickle is damaged (a name without an end)")
        text = self.data[self.position : end]
        self.position = end + 1
        return text.decode("utf-8")

    def pop(self) -> Any:
        """The top of the stack, which must be a value."""
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleRefused("its pickle is damaged (nothing on the stack)")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """Everything above the last mark, which goes away with it."""
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise PickleRefused("its pickle is damaged (no mark)")

    # --- building ----------------------------------------------------------------------------

    def name(self) -> None:
        """GLOBAL: keep the name if it is a known one."""
        name = f"{self.line()}.{self.line()}"
        if name not in KNOWN_NAMES:
            shown = name[:120] if name.isprintable() else ascii(name[:120])
            raise PickleRefused(f"it names {shown}, which is no tensor and no plain value")
        self.stack.append(_Name(name))

    def storage(self) -> None:
        """BINPERSID: ('storage', type, key, place, elements) becomes a `Storage`."""
        identity = self.pop()
        if type(identity) is not tuple or len(identity) != 5:
            raise PickleRefused("its pickle asks for something that is no storage")
        kind, type_name, key, _, elements = identity
        known = STORAGES.get(type_name.name.removeprefix("torch.")) if _is_name(type_name) else None
        if kind != "storage" or known is None or type(key) is not str or type(elements) is not int:
            raise PickleRefused("its pickle asks for something that is no storage")
        if self.sizes.get(key) != elements * known[1] or elements < 0:
            raise PickleRefused(
                f"storage {key[:40]!r} is declared with {elements:,} elements of {known[1]} bytes, "
                f"the file has {self.sizes.get(key, 0):,} bytes of it"
            )
        self.stack.append(Storage(key, *known, elements))

    def call(self) -> None:
        """REDUCE: the few calls that make tensors and containers, told and not made."""
        arguments, called = self.pop(), self.pop()
        if not _is_name(called) or type(arguments) is not tuple:
            raise PickleRefused("its pickle calls something that is no name")
        if called.name not in _CALLS:
            raise PickleRefused(f"its pickle calls {called.name}")
        self.stack.append(_CALLS[called.name](*arguments))

    def add_state(self) -> None:
        """BUILD: attributes of an ordered dict, such as `_metadata`, are not kept."""
        self.pop()
        if type(self.stack[-1]) is not dict:
            raise PickleRefused("its pickle sets attributes of something that is no dict")

    def set_items(self, values: list[Any]) -> None:
        """Keys and values by turns into the dict below."""
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise PickleRefused("its pickle is damaged (no dict to fill)")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                # A nested tuple as a key would be hashed by recursion without end.
                raise PickleRefused(f"its pickle has a {type(key).__name__} as a key")
            if isinstance(key, str) and not key.isprintable():
                # Names are shown to people: control characters would command their terminal.
                raise PickleRefused(f"it has the name {key[:80]!a}, which cannot be printed")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        """Values to the list below."""
        if type(self.stack[-1]) is not list:
            raise PickleRefused("its pickle is damaged (no list to fill)")
        self.stack[-1].extend(values)


def _is_name(value: Any) -> bool:
    return type(value) is _Name


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *unused: Any) -> PickledTensor:
    """The view, if it stays within its storage."""
    numbers = (offset, *shape, *strides)
    if type(storage) is not Storage or any(type(n) is not int or n < 0 for n in numbers):
        raise PickleRefused("its pickle describes a tensor that cannot be")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise PickleRefused("its pickle describes a tensor that cannot be")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.elements:
        raise PickleRefused(
            f"a tensor of shape {tuple(shape)} reaches beyond its storage of "
            f"{storage.elements:,} elements"
        )
    if math.prod(shape) > max(1, storage.elements):
        raise PickleRefused(f"a tensor of shape {tuple(shape)} repeats its storage's elements")
    return PickledTensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *unused: Any) -> PickledTensor:
    if type(data) is not PickledTensor:
        raise PickleRefused("its pickle makes a parameter of something that is no tensor")
    return data


def _ordered(*pairs: Any) -> dict[Any, Any]:
    if pairs:
        raise PickleRefused("its pickle fills an ordered dict in an unknown way")
    return {}


def _size(values: Any) -> tuple[int, ...]:
    if len(values) > MAX_DIMENSIONS or any(type(n) is not int for n in values):
        raise PickleRefused("its pickle describes a size that cannot be")
    return tuple(values)


_CALLS: Mapping[str, Callable[..., Any]] = {
    TENSOR: _tensor,
    PARAMETER: _parameter,
    ORDERED: _ordered,
    SIZE: _size,
    DEVICE: lambda *values: None,
}


def _push(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(value(reader))


def _tuple_of(count: int) -> Callable[[_Reader], None]:
    def step(reader: _Reader) -> None:
        values = [reader.pop() for _ in range(count)]
        reader.stack.append(tuple(reversed(values)))

    return step


def _keep(form: str) -> Callable[[_Reader], None]:
    def step(reader: _Reader) -> None:
        value = reader.pop()
        reader.memo[reader.number(form)] = value
        reader.stack.append(value)

    return step


def _set_item(reader: _Reader) -> None:
    value, key = reader.pop(), reader.pop()
    reader.set_items([key, value])


def _append_one(reader: _Reader) -> None:
    reader.append([reader.pop()])


_STEPS: Mapping[bytes, Callable[[_Reader], None]] = {
    b"\x80": lambda reader: _protocol(reader),
    b"(": _push(lambda reader: _MARK),
    b"}": _push(lambda reader: {}),
    b"]": _push(lambda reader: []),
    b")": _push(lambda reader: ()),
    b"N": _push(lambda reader: None),
    b"\x88": _push(lambda reader: True),
    b"\x89": _push(lambda reader: False),
    b"K": _push(lambda reader: reader.number("<B")),
    b"M": _push(lambda reader: reader.number("<H")),
    b"J": _push(lambda reader: reader.number("<i")),
    b"G": _push(lambda reader: reader.number(">d")),
    b"\x8a": _push(lambda reader: int.from_bytes(reader.counted("<B"), "little", signed=True)),
    b"X": _push(lambda reader: reader.counted("<I").decode("utf-8", "surrogatepass")),
    b"U": _push(lambda reader: reader.counted("<B").decode("utf-8", "surrogatepass")),
    b"q": _keep("<B"),
    b"r": _keep("<I"),
    b"h": _push(lambda reader: reader.memo[reader.number("<B")]),
    b"j": _push(lambda reader: reader.memo[reader.number("<I")]),
    b"t": _push(lambda reader: tuple(reader.marked())),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"c": _Reader.name,
    b"Q": _Reader.storage,
    b"R": _Reader.call,
    b"b": _Reader.add_state,
    b"s": _set_item,
    b"u": lambda reader: reader.set_items(reader.marked()),
    b"a": _append_one,
    b"e": lambda reader: reader.append(reader.marked()),
}


def _protocol(reader: _Reader) -> None:
    version = reader.number("<B")
    if version != 2:
        raise PickleRefused(f"its pickle has protocol {version}, torch.save writes 2")
