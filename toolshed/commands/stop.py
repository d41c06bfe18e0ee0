"""``toolshed stop``: the end of running tools."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.commands.remote import parser_for


def main(arguments: Sequence[str]) -> int:
    """Stop them and say so."""
    options = parser_for("stop", "End running tools.").parse_args(arguments)
    from toolshed.serving.remote import (  # type: ignore[import-not-found,unused-ignore]
        stop,
    )

    stop(options.address)
    print("stopped")
    return 0
