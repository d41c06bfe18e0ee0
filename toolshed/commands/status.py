"""``toolshed status``: the replicas of running tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolshed.commands.remote import parser_for


def main(arguments: Sequence[str]) -> int:
    """Print the state of the running tools as JSON."""
    options = parser_for("status", "Show the replicas of running tools.").parse_args(arguments)
    from toolshed.serving.remote import (  # type: ignore[import-not-found,unused-ignore]
        status,
    )

    print(json.dumps(status(options.address), ensure_ascii=False, indent=2))
    return 0
