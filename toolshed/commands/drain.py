"""``toolshed drain``: a replica finishes what it has and is taken out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from toolshed.commands.remote import at_least_zero, options_of, parser_for
from toolshed.errors import ToolFailure
from toolshed.serving.remote import calls_left, drain

_POLL_S = 0.2


def main(arguments: Sequence[str]) -> int:
    """Wait until the replica is out and say so; ToolFailure where it works for longer than asked,
    which leaves it draining."""
    parser = parser_for("drain", "Let a replica finish its calls and take it out.")
    parser.add_argument("family", metavar="FAMILY", help="such as 'roborefer'")
    parser.add_argument(
        "index", metavar="INDEX", type=at_least_zero, help="of the replica, as status shows it"
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=at_least_zero,
        default=600,
        help="how long to wait until it is out (default: 600; 0: not at all)",
    )
    options = options_of(parser, arguments)
    what = f"{options.family}: replica {options.index}"
    name = drain(options.address, options.family, options.index, options.namespace)
    until_s = time.monotonic() + options.wait
    told = -1
    while (left := calls_left(options.address, name, options.namespace)) is not None:
        if left != told:
            told = left
            calls = "1 call" if left == 1 else f"{left} calls"
            print(f"{what} is draining, {calls} left", file=sys.stderr, flush=True)
        if options.wait == 0:
            print(f"{what} is draining; toolshed status shows when it is out")
            return 0
        if time.monotonic() >= until_s:
            text = f"{what} still works after {options.wait} s; toolshed status shows when it is"
            raise ToolFailure("draining", f"{text} out")
        time.sleep(_POLL_S)
    print(f"{what} is out")
    return 0
