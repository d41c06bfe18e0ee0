"""``toolshed env``: the environments of the tools."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.env_command import env_main


def main(arguments: Sequence[str]) -> int:
    """Hand the words to the command of the environments."""
    return env_main(arguments)
