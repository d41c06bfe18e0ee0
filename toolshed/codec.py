"""The neutral form of values that cross processes: plain data, and raw buffers beside it.

Arrays travel as dtype, shape and bytes, never pickled: a numpy 2 array does not unpickle under
numpy 1. The same form goes through Ray (buffers out of band, without a copy) and over the bridge's
socket (``to_frame``). Only the carriers of this library are rebuilt; whatever else the bytes say,
CodecError is the worst that they do.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any, TypeAlias

import numpy as np

VERSION = 1
_MAGIC = b"TSF1"
_LENGTHS = struct.Struct("<4sIQ")
_MAX_HEADER_BYTES = 64 << 20
_MAX_BUFFERS_BYTES = 8 << 30
_KEY = "~"
_DTYPE = re.compile(r"\|b1|\|[iu]1|[<>](?:[iu][248]|f[248]|f16|c8|c16|c32)")
"""Plain numbers; what numpy would read into other texts is not worth a surprise."""
_ALIGNMENT = 64
"""Of every buffer in a frame: arrays may be handed to code that reads whole vectors."""
Absent: TypeAlias = Callable[[str, tuple[int, ...], int], object]
_HOMES = ("toolshed.types", "toolshed.tools.robot", "toolshed.tabletop.state")
"""Modules whose dataclasses may travel."""
_WRONG_CONTENT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What plain data of the wrong form can raise on its way into values."""


class CodecError(ValueError):
    """Something that cannot be sent, or bytes that are no message of this version."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as plain data, with the buffers that it refers to by number."""

    tree: Any
    """None, bool, int, float, str, and lists and dicts of them."""
    buffers: list[Any]
    """Contiguous buffers: ``PickleBuffer`` before they travel, what the transport gives after."""

    @property
    def num_bytes(self) -> int:
        """Bytes in the buffers."""
        return sum(memoryview(each).nbytes for each in self.buffers)


def pack(value: object) -> Packed:
    """The neutral form of a value; no array that lies in one piece is copied, none is sent twice.

    CodecError where something in it cannot be sent.
    """
    buffers = _Buffers()
    try:
        return Packed(tree=_pack(value, buffers), buffers=buffers.kept)
    except RecursionError as error:
        raise CodecError("a value that contains itself, or is nested too deeply") from error


def unpack(packed: Packed, absent: Absent | None = None) -> Any:
    """The value again; its arrays are read-only views of the buffers. CodecError if it is none.

    ``absent`` makes what stands for an array whose buffer is None, from its dtype, its shape and
    the buffer's number.
    """
    try:
        return _unpack(packed.tree, packed.buffers, absent)
    except CodecError:
        raise
    except _WRONG_CONTENT as error:
        raise CodecError(f"no value of this library: {type(error).__name__}: {error}") from error


# ---- one frame of a byte stream ----------------------------------------------------------------


def to_frame(value: object) -> list[bytes | memoryview]:
    """A message as pieces to be written one after the other: lengths, header, buffers."""
    packed = pack(value)
    views = [memoryview(each).cast("B") for each in packed.buffers]
    sizes = [view.nbytes for view in views]
    content = {"version": VERSION, "tree": packed.tree, "sizes": sizes}
    try:
        header = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError) as error:
        raise CodecError(f"a value that cannot be written: {error}") from error
    places, num_bytes = _places(sizes)
    pieces: list[bytes | memoryview] = [_LENGTHS.pack(_MAGIC, len(header), num_bytes), header]
    end = 0
    for (start, stop), view in zip(places, views, strict=True):
        pieces += [bytes(start - end), view]
        end = stop
    return [piece for piece in pieces if len(piece)]


FRAME_START = _LENGTHS.size
"""Bytes to read first; ``frame_lengths`` says how many follow."""


def frame_lengths(start: bytes) -> tuple[int, int]:
    """Bytes of header and of buffers; CodecError where no frame of ours begins."""
    if len(start) != FRAME_START:
        raise CodecError(f"a frame begins with {FRAME_START} bytes, got {len(start)}")
    magic, header, buffers = _LENGTHS.unpack(start)
    if magic != _MAGIC:
        raise CodecError(f"no frame of version {VERSION}: it begins with {magic!r}")
    if header > _MAX_HEADER_BYTES or buffers > _MAX_BUFFERS_BYTES:
        raise CodecError(f"a frame of {header} + {buffers} bytes is too large")
    return header, buffers


def from_frame(header: bytes, buffers: bytes | bytearray | memoryview) -> Any:
    """The value of a frame whose two parts were read; its arrays are views of ``buffers``."""
    try:
        content = json.loads(header.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"no header of a frame: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"version", "tree", "sizes"}:
        raise CodecError("no header of a frame: it has not the keys version, tree and sizes")
    if content["version"] != VERSION:
        raise CodecError(f"a frame of version {content['version']!r}; this side speaks {VERSION}")
    sizes = content["sizes"]
    if not isinstance(sizes, list):
        raise CodecError(f"sizes of buffers are a list, got {type(sizes).__name__}")
    places, num_bytes = _places([_natural(size) for size in sizes])
    view = memoryview(buffers).cast("B")
    if num_bytes != view.nbytes:
        raise CodecError(f"{view.nbytes} bytes of buffers, the header says {num_bytes}")
    cuts = [view[start:end] for start, end in places]
    return unpack(Packed(tree=content["tree"], buffers=cuts))


def _places(sizes: Sequence[int]) -> tuple[list[tuple[int, int]], int]:
    """Where each buffer begins and ends, and how many bytes all take with the gaps between."""
    places, end = [], 0
    for size in sizes:
        start = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = start + size
        places.append((start, end))
    return places, end


# ---- values ------------------------------------------------------------------------------------


class _Buffers:
    """Buffers by number, each array once."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def add(self, owner: object, make: Callable[[], PickleBuffer]) -> int:
        number = self._numbers.get(id(owner))
        if number is None:
            number = self._numbers[id(owner)] = len(self.kept)
            self.kept.append(make())
        return number


def _pack(value: Any, buffers: _Buffers) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool or kind is float:
        return value
    if kind is dict:
        items = {_key(key): _pack(each, buffers) for key, each in value.items()}
        return {_KEY: "map", "items": items} if _KEY in items else items
    if kind is list:
        return [_pack(each, buffers) for each in value]
    if kind is tuple:
        return {_KEY: "tuple", "items": [_pack(each, buffers) for each in value]}
    if kind is bytes:
        return {_KEY: "bytes", "buffer": buffers.add(value, lambda: PickleBuffer(value))}
    # Other subclasses are more than their numbers: a masked array would lose its mask.
    if kind is np.ndarray or kind is np.memmap:
        return _pack_array(value, buffers)
    if isinstance(value, np.bool_ | np.number | np.str_):
        return _pack_scalar(value, buffers)
    if dataclasses.is_dataclass(kind) and _carrier(kind.__name__) is kind:
        fields = {name: _pack(getattr(value, name), buffers) for name in _fields_of(kind)}
        return {_KEY: kind.__name__, **fields}
    raise CodecError(f"{kind.__module__}.{kind.__qualname__} is no value that can be sent")


def _pack_scalar(scalar: Any, buffers: _Buffers) -> Any:
    plain = scalar.item()
    if isinstance(plain, np.generic):  # such as a longdouble, which no Python float holds
        raise CodecError(f"a number of type {type(scalar).__name__} cannot be sent")
    return _pack(plain, buffers)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise CodecError(f"key {key!r} of a mapping is no text")
    return str(key)


def _pack_array(array: Any, buffers: _Buffers) -> dict[str, Any]:
    dtype = array.dtype.str
    if not _DTYPE.fullmatch(dtype):
        raise CodecError(f"an array of dtype {array.dtype} cannot be sent")
    number = buffers.add(array, lambda: _buffer_of(array))
    return {_KEY: "array", "dtype": dtype, "shape": list(array.shape), "buffer": number}


def _buffer_of(array: Any) -> PickleBuffer:
    whole = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    flat: Any = whole.reshape(-1).view(np.uint8) if whole.size else b""
    return PickleBuffer(flat)


def _unpack(tree: Any, buffers: Sequence[Any], absent: Absent | None) -> Any:
    if isinstance(tree, list):
        return [_unpack(each, buffers, absent) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if _KEY not in tree:
        return {key: _unpack(each, buffers, absent) for key, each in tree.items()}
    kind = tree[_KEY]
    if kind == "map":
        return {key: _unpack(each, buffers, absent) for key, each in tree["items"].items()}
    if kind == "tuple":
        return tuple(_unpack(each, buffers, absent) for each in tree["items"])
    if kind == "bytes":
        return bytes(memoryview(buffers[_natural(tree["buffer"])]))
    if kind == "array":
        return _unpack_array(tree, buffers[_natural(tree["buffer"])], absent)
    carrier = _carrier(kind) if isinstance(kind, str) else None
    if carrier is None:
        raise CodecError(f"{kind!r} is no carrier of this library")
    fields = {key: _unpack(each, buffers, absent) for key, each in tree.items() if key != _KEY}
    return carrier(**fields)


def _natural(number: object) -> int:
    if type(number) is not int or number < 0:
        raise CodecError(f"{number!r} is neither 0 nor a positive integer")
    return number


def _unpack_array(tree: dict[str, Any], buffer: Any, absent: Absent | None) -> Any:
    if not _DTYPE.fullmatch(tree["dtype"]):
        raise CodecError(f"an array of dtype {tree['dtype']!r} cannot be received")
    dtype = np.dtype(tree["dtype"])
    shape = tuple(_natural(size) for size in tree["shape"])
    if buffer is None and absent is not None:
        return absent(dtype.str, shape, tree["buffer"])
    if math.prod(shape) == 0:
        array = np.zeros(shape, dtype)
    else:
        array = np.frombuffer(buffer, dtype=dtype).reshape(shape)
    # What a transport hands out may be shared with others who hold the same object.
    array.flags.writeable = False
    return array


@functools.cache
def _fields_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


@functools.lru_cache(maxsize=256)
def _carrier(name: str) -> type | None:
    """The dataclass of this name; the modules are imported one after the other, until it is met."""
    for home in _HOMES:
        found = vars(importlib.import_module(home)).get(name)
        if isinstance(found, type) and found.__module__ == home:
            return found if dataclasses.is_dataclass(found) else None
    return None
