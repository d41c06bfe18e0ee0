"""``toolshed stop``: the end of running tools."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.commands.remote import options_of, parser_for
from toolshed.serving.remote import stop


def main(arguments: Sequence[str]) -> int:
    """Stop them and say so."""
    options = options_of(parser_for("stop", "End running tools."), arguments)
    stop(options.address, options.namespace)
    print("stopped")
    return 0
