"""``toolshed drain``: a replica finishes what it has and is taken out."""

from __future__ import annotations

from collections.abc import Sequence

from toolshed.commands.remote import at_least_zero, options_of, parser_for
from toolshed.serving.remote import drain


def main(arguments: Sequence[str]) -> int:
    """Wait until the replica is out and say so."""
    parser = parser_for("drain", "Let a replica finish its calls and take it out.")
    parser.add_argument("family", metavar="FAMILY", help="such as 'roborefer'")
    parser.add_argument(
        "index", metavar="INDEX", type=at_least_zero, help="of the replica, as status shows it"
    )
    options = options_of(parser, arguments)
    drain(options.address, options.family, options.index, options.namespace)
    print(f"{options.family}: replica {options.index} is out")
    return 0
