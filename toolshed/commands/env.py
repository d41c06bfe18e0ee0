"""``toolshed env``: the environments of the tools."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Hand the words to the command of the environments."""
    try:
        from toolshed.env_command import (  # type: ignore[import-not-found,unused-ignore]
            env_main,
        )
    except ModuleNotFoundError as error:
        raise ConfigError("toolshed env is not part of this installation") from error
    code: int = env_main(list(arguments))
    return code
