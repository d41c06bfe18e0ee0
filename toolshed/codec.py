"""The neutral form of values that cross processes: plain data, and raw buffers beside it.

Arrays travel as dtype, shape and bytes, never pickled: a numpy 2 array does not unpickle under
numpy 1. The same form goes through Ray (buffers out of band, without a copy) and over the bridge's
socket (``to_frame``). Only the carriers of this library are rebuilt; nothing in it runs code.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
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
_KINDS = frozenset("biufc")
Absent: TypeAlias = Callable[[str, tuple[int, ...], int], object]
_HOMES = ("toolshed.types", "toolshed.tools.robot", "toolshed.tabletop.state")
"""Modules whose dataclasses may travel."""


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
    """The neutral form of a value; no array is copied that lies in one piece, none is sent twice."""
    buffers = _Buffers()
    return Packed(tree=_pack(value, buffers), buffers=buffers.kept)


def unpack(packed: Packed, absent: Absent | None = None) -> Any:
    """The value again; its arrays are read-only views of the buffers. CodecError if it is none.

    ``absent`` makes what stands for an array whose buffer is None, from its dtype, its shape and
    the buffer's number.
    """
    try:
        return _unpack(packed.tree, packed.buffers, absent)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CodecError(f"no value of this library: {type(error).__name__}: {error}") from error


# ---- one frame of a byte stream ----------------------------------------------------------------


def to_frame(value: object) -> list[bytes | memoryview]:
    """A message as pieces to be written one after the other: lengths, header, buffers."""
    packed = pack(value)
    views = [memoryview(each).cast("B") for each in packed.buffers]
    sizes = [view.nbytes for view in views]
    content = {"version": VERSION, "tree": packed.tree, "sizes": sizes}
    header = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return [_LENGTHS.pack(_MAGIC, len(header), sum(sizes)), header, *views]


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
    """The value of a frame whose two parts were read."""
    try:
        content = json.loads(header.decode("utf-8", "surrogatepass"))
        version, tree, sizes = content["version"], content["tree"], content["sizes"]
        ends = list(_running(sizes))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CodecError(f"no header of a frame: {error}") from error
    if version != VERSION:
        raise CodecError(f"a frame of version {version!r}; this side speaks {VERSION}")
    view = memoryview(buffers)
    if (ends[-1] if ends else 0) != view.nbytes:
        raise CodecError(f"{view.nbytes} bytes of buffers, the header says {sum(sizes)}")
    cuts = [view[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return unpack(Packed(tree=tree, buffers=list(cuts)))


def _running(sizes: Sequence[int]) -> list[int]:
    ends, end = [], 0
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"size {size!r}")
        end += size
        ends.append(end)
    return ends


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


def _pack(value: object, buffers: _Buffers) -> Any:
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool or kind is float:
        return value
    if kind is dict:
        items = {_key(key): _pack(each, buffers) for key, each in value.items()}  # type: ignore[attr-defined]
        return {_KEY: "map", "items": items} if _KEY in items else items
    if kind is list:
        return [_pack(each, buffers) for each in value]  # type: ignore[attr-defined]
    if kind is tuple:
        return {_KEY: "tuple", "items": [_pack(each, buffers) for each in value]}  # type: ignore[attr-defined]
    if isinstance(value, bytes):
        return {_KEY: "bytes", "buffer": buffers.add(value, lambda: PickleBuffer(value))}
    if isinstance(value, np.ndarray):
        return _pack_array(value, buffers)
    if isinstance(value, np.generic):
        return _pack(value.item(), buffers)
    if dataclasses.is_dataclass(kind) and _carrier(kind.__name__) is kind:
        fields = {name: _pack(getattr(value, name), buffers) for name in _fields_of(kind)}
        return {_KEY: kind.__name__, **fields}
    raise CodecError(f"{kind.__module__}.{kind.__qualname__} is no value that can be sent")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise CodecError(f"key {key!r} of a mapping is no text")
    return key


def _pack_array(array: np.ndarray, buffers: _Buffers) -> dict[str, Any]:
    if array.dtype.kind not in _KINDS:
        raise CodecError(f"an array of dtype {array.dtype} cannot be sent")
    number = buffers.add(array, lambda: _buffer_of(array))
    shape = list(array.shape)
    return {_KEY: "array", "dtype": array.dtype.str, "shape": shape, "buffer": number}


def _buffer_of(array: np.ndarray) -> PickleBuffer:
    whole = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return PickleBuffer(whole.reshape(-1).view(np.uint8) if whole.size else b"")


def _unpack(tree: Any, buffers: Sequence[Any], absent: Absent | None) -> Any:
    if isinstance(tree, list):
        return [_unpack(each, buffers, absent) for each in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(_KEY)
    if kind is None:
        return {key: _unpack(each, buffers, absent) for key, each in tree.items()}
    if kind == "map":
        return {key: _unpack(each, buffers, absent) for key, each in tree["items"].items()}
    if kind == "tuple":
        return tuple(_unpack(each, buffers, absent) for each in tree["items"])
    if kind == "bytes":
        return bytes(buffers[_index(tree["buffer"])])
    if kind == "array":
        return _unpack_array(tree, buffers[_index(tree["buffer"])], absent)
    carrier = _carrier(kind)
    if carrier is None:
        raise CodecError(f"{kind!r} is no carrier of this library")
    return carrier(
        **{key: _unpack(each, buffers, absent) for key, each in tree.items() if key != _KEY}
    )


def _index(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise CodecError(f"{number!r} is no number of a buffer")
    return number


def _unpack_array(tree: dict[str, Any], buffer: Any, absent: Absent | None) -> Any:
    dtype = np.dtype(tree["dtype"])
    if dtype.kind not in _KINDS:
        raise CodecError(f"an array of dtype {dtype} cannot be received")
    shape = tuple(_index(size) for size in tree["shape"])
    if buffer is None and absent is not None:
        return absent(dtype.str, shape, tree["buffer"])
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    array = np.frombuffer(buffer, dtype=dtype).reshape(shape)
    # What a transport hands out may be shared with others who hold the same object.
    array.flags.writeable = False
    return array


@functools.cache
def _fields_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


@functools.cache
def _carrier(name: str) -> type | None:
    for home in _HOMES:
        found = vars(importlib.import_module(home)).get(name)
        if isinstance(found, type) and found.__module__ == home:
            return found if dataclasses.is_dataclass(found) else None
    return None
