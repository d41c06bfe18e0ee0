"""What is known about arrays: a fact by the array itself, and how large values are."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Generic, TypeVar

import numpy as np

from toolshed.types import Stored, StoredArray

T = TypeVar("T")


class ByIdentity(Generic[T]):
    """A fact about each array, kept as long as the array itself lives."""

    def __init__(self) -> None:
        self._facts: dict[int, tuple[weakref.ref[np.ndarray], T]] = {}

    def get(self, array: np.ndarray) -> T | None:
        found = self._facts.get(id(array))
        return found[1] if found is not None and found[0]() is array else None

    def put(self, array: np.ndarray, fact: T) -> None:
        key = id(array)
        self._facts[key] = (weakref.ref(array, lambda gone: self._drop(key, gone)), fact)

    def _drop(self, key: int, gone: weakref.ref[np.ndarray]) -> None:
        found = self._facts.get(key)
        if found is not None and found[0] is gone:
            del self._facts[key]


def num_bytes(value: object) -> int:
    """Bytes in the arrays of a value, those that it refers to included."""
    if isinstance(value, np.ndarray | StoredArray):
        return int(value.nbytes)
    if isinstance(value, Stored):
        return 0
    if isinstance(value, tuple):
        return sum(map(num_bytes, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(num_bytes(getattr(value, each.name)) for each in dataclasses.fields(value))
    return 0
