"""The formats by name, loaded when one is used, and which of them a file's rows are in."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from sft.transcript import Reading, Transcript
from toolshed.errors import ConfigError
from toolshed.types import Json

FORMATS: dict[str, str] = {
    "verl": "sft.formats.verl",
    "messages": "sft.formats.messages",
    "llava": "sft.formats.llava",
    "sharegpt": "sft.formats.sharegpt",
}
"""``auto`` takes the first that fits one of a file's first rows."""
AUTO = "auto"


class Format(Protocol):
    """What a module of this folder has; docs/DATA.md adds one."""

    def fits(self, row: dict[str, Json]) -> bool:
        """Whether a row says of itself that it is in this format."""

    def read(self, row: dict[str, Json], index: int, reading: Reading) -> Transcript:
        """A row as a transcript, its pictures not looked at; RejectedRow where it cannot be."""

    def roots(self, reading: Reading) -> Reading:
        """Where pictures lie if the config does not say."""


def check_format(name: str) -> None:
    """ConfigError where there is no such format."""
    if name != AUTO and name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"format={name!r} is none of {AUTO}, {', '.join(FORMATS)}{hint}")


def format_named(name: str) -> Format:
    return cast(Format, import_module(FORMATS[name]))


def recognised(rows: Sequence[dict[str, Json]]) -> str:
    """The format that some of these rows are in; empty where they are in none."""
    fitting = (name for name in FORMATS if any(map(format_named(name).fits, rows)))
    return next(fitting, "")
