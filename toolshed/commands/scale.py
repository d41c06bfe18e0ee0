"""``toolshed scale``: more or fewer replicas of a family, while it works."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.commands.remote import at_least_zero, options_of, parser_for
from toolshed.serving.remote import scale


def main(arguments: Sequence[str]) -> int:
    """Change the number and say so."""
    parser = parser_for("scale", "Change how many replicas a family of running tools has.")
    parser.add_argument("family", metavar="FAMILY", help="such as 'roborefer'")
    parser.add_argument(
        "num_replicas", metavar="N", type=at_least_zero, help="how many from now on"
    )
    options = options_of(parser, arguments)
    scale(options.address, options.family, options.num_replicas, options.namespace)
    print(f"{options.family}: {options.num_replicas} replicas")
    return 0
