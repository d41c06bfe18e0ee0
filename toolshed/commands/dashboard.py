"""``toolshed dashboard``: a page that shows running tools as they work."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.dashboard import dashboard_main


def main(arguments: Sequence[str]) -> int:
    """Hand the words to the page."""
    return dashboard_main(list(arguments))
