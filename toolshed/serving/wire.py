"""What passes between a caller and a replica: arguments by value or by reference, and replies whose
large arrays stay in the object store until somebody looks at them.

A reply has two parts. The first is read by its caller; the second holds the large buffers, and the
caller passes it on by reference without ever mapping it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np

from toolshed.arrays import ByIdentity
from toolshed.backend import Answer, Priority, Request
from toolshed.byte_lru import ByteLRU
from toolshed.codec import Packed, pack, unpack
from toolshed.errors import ToolFailure, first_line
from toolshed.types import Stored, StoredArray, ToolImage, ToolValue, Variable

KEPT_BYTES = 32 << 20
"""What a caller keeps in the object store for its tools, and what a replica keeps mapped."""
_BY_REFERENCE_BYTES = 100_000
_STORED_BYTES = 65_536
Buffers: TypeAlias = "list[Any] | None"
Word: TypeAlias = Literal["ok", "refused", "failed", "busy"]


# Named tuples, sent as lists of their fields: where these are plain data, Ray sends such a list
# without pickling anything, in a quarter of the time, and this is every call.


class Sent(NamedTuple):
    """An argument that lies in the object store, and may be sent many times."""

    key: str
    """The same for the same content."""
    reference: Any
    """To a list of buffers."""
    tree: Any
    """The value, referring to those buffers."""
    num_bytes: int


class Asked(NamedTuple):
    """One call, as it goes to a replica."""

    name: str
    """``family.method``."""
    tree: Any
    """The small arguments, referring to ``buffers``."""
    buffers: list[Any]
    far: dict[str, Sent]
    """The other arguments."""
    kind_read: str
    priority: Priority
    key: str
    """The same for equal calls of a deterministic family; empty otherwise."""
    budget_s: float


class Told(NamedTuple):
    """What a replica says of one call. Errors are told, not raised: Ray would wrap and log them."""

    word: Word
    """``busy`` is no outcome: the call was not taken."""
    reason: str = ""
    text: str = ""
    tree: Any = None
    """Value, variables and pictures."""
    buffers: list[Any] | None = None
    """Of ``tree``; one that is None lies in the second part."""
    queue_s: float = 0.0
    run_s: float = 0.0
    encode_s: float = 0.0
    total_s: float = 0.0
    """At the replica."""


# ---- replies -----------------------------------------------------------------------------------


def two_parts(answer: Answer) -> tuple[Packed, Buffers]:
    """What a caller reads of an answer, and its large buffers. Pictures are in the first part,
    because every caller needs them."""
    packed = pack([answer.value, list(answer.variables), list(answer.images)])
    buffers = packed.buffers
    far = [not answer.images and memoryview(each).nbytes > _STORED_BYTES for each in buffers]
    if not any(far):
        return packed, None
    near = [None if is_far else each for each, is_far in zip(buffers, far, strict=True)]
    stored = [each if is_far else None for each, is_far in zip(buffers, far, strict=True)]
    return Packed(tree=packed.tree, buffers=near), stored


def answer_of(told: Told, reference: Any, key: str, queue_s: float, transfer_s: float) -> Answer:
    """What a session gets; ``reference`` is that of the second part."""
    assert told.buffers is not None, "an answer has a value"
    buffers = told.buffers
    if not buffers:
        value, variables, images = unpack(Packed(tree=told.tree, buffers=buffers))
    else:
        value, variables, images = _with_arrays(told.tree, buffers, reference, key)
    return Answer(
        text=told.text,
        value=value,
        variables=tuple(variables),
        images=tuple(images),
        queue_s=queue_s + told.queue_s,
        transfer_s=transfer_s,
        run_s=told.run_s,
        encode_s=told.encode_s,
    )


def _with_arrays(
    trees: Any, buffers: list[Any], reference: Any, key: str
) -> tuple[ToolValue | Stored[ToolValue], list[Variable], list[ToolImage]]:
    key = key or uuid.uuid4().hex

    def absent(dtype: str, shape: tuple[int, ...], number: int) -> StoredArray:
        return RayArray(dtype, shape, f"{key}/{number}", reference, number)

    value_tree, variables_tree, images_tree = trees
    value: ToolValue | Stored[ToolValue]
    if any(each is None for each in buffers):
        value = RayValue(Packed(tree=value_tree, buffers=buffers), reference)
    else:
        value = unpack(Packed(tree=value_tree, buffers=buffers))
    variables = unpack(Packed(tree=variables_tree, buffers=buffers), absent)
    return value, variables, unpack(Packed(tree=images_tree, buffers=buffers))


class RayArray(StoredArray):
    """A large array of a reply."""

    def __init__(
        self, dtype: str, shape: tuple[int, ...], key: str, reference: Any, number: int
    ) -> None:
        self.dtype, self.shape, self.key = dtype, shape, key
        self.reference, self.number = reference, number

    def fetch(self) -> np.ndarray:
        tree = array_tree(self, self.number)
        return cast(np.ndarray, unpack(Packed(tree=tree, buffers=_buffers(self.reference))))

    def sent(self) -> Sent:
        """This array as an argument: nothing of it passes through the caller."""
        tree = array_tree(self, self.number)
        return Sent(self.key, self.reference, tree, self.nbytes)


class RayValue(Stored[ToolValue]):
    """The whole value of a reply with large arrays."""

    def __init__(self, packed: Packed, reference: Any) -> None:
        self._packed, self._reference = packed, reference

    def fetch(self) -> ToolValue:
        stored = _buffers(self._reference)
        buffers = [
            far if near is None else near
            for near, far in zip(self._packed.buffers, stored, strict=True)
        ]
        return cast(ToolValue, unpack(Packed(tree=self._packed.tree, buffers=buffers)))


def array_tree(array: StoredArray, number: int) -> dict[str, Any]:
    """The neutral form of an array whose buffer has this number."""
    return {"~": "array", "dtype": array.dtype, "shape": list(array.shape), "buffer": number}


def _buffers(reference: Any) -> list[Any]:
    import ray
    from ray import exceptions

    try:
        buffers: list[Any] = ray.get(reference)
    except (exceptions.RayError, ValueError, RuntimeError) as error:
        text = f"the array is gone with the process that held it: {first_line(error)}"
        raise ToolFailure("expired", text) from error
    return buffers


# ---- arguments ---------------------------------------------------------------------------------


class Outbox:
    """What was sent before, so that a group of rollouts sends a picture once. Safe for threads."""

    def __init__(self) -> None:
        self._sent: ByteLRU[Sent] = ByteLRU(KEPT_BYTES)
        self._keys = ByIdentity[str]()

    def packed(self, request: Request) -> tuple[Packed, dict[str, Sent]]:
        """A request's arguments: the small ones by value, the others by what fetches them."""
        near: dict[str, object] = {}
        far: dict[str, Sent] = {}
        for name, value in request.arguments.items():
            if isinstance(value, RayArray):
                far[name] = value.sent()
                continue
            key = self._key(value)
            if key is None:
                near[name] = value.fetch() if isinstance(value, StoredArray) else value
            else:
                far[name] = self._put(key, value)
        return pack(near), far

    def clear(self) -> None:
        self._sent.clear()

    def _put(self, key: str, value: object) -> Sent:
        def put() -> tuple[Sent, int]:
            import ray

            packed = pack(value)
            sent = Sent(key, ray.put(packed.buffers), packed.tree, packed.num_bytes)
            return sent, sent.num_bytes

        return self._sent.get_or_put(key, put)

    def _key(self, value: object) -> str | None:
        if isinstance(value, ToolImage):
            return value.sha256
        if not isinstance(value, np.ndarray) or value.nbytes <= _BY_REFERENCE_BYTES:
            return None
        key = self._keys.get(value)
        if key is None:
            key = uuid.uuid4().hex
            self._keys.put(value, key)
        return key


class Inbox:
    """What a replica has fetched, kept while it is used often. Safe for threads."""

    def __init__(self) -> None:
        self._fetched: ByteLRU[object] = ByteLRU(KEPT_BYTES)

    def unpacked(self, asked: Asked, get: Callable[[list[Any]], list[Any]]) -> dict[str, object]:
        """A call's arguments; ``get`` fetches references, all of a call at once."""
        arguments: dict[str, object] = unpack(Packed(tree=asked.tree, buffers=asked.buffers))
        if not asked.far:
            return arguments
        missing = {}
        for name, sent in asked.far.items():
            known = self._fetched.get(sent.key)
            if known is None:
                missing[name] = sent
            else:
                arguments[name] = known
        if missing:
            lists = get([sent.reference for sent in missing.values()])
            for (name, sent), buffers in zip(missing.items(), lists, strict=True):
                arguments[name] = unpack(Packed(tree=sent.tree, buffers=buffers))
                self._fetched.put(sent.key, arguments[name], sent.num_bytes)
        return arguments
