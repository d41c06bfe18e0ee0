"""``toolshed status``: the replicas of running tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from toolshed.commands.remote import options_of, parser_for
from toolshed.serving.registry import SeatReport
from toolshed.serving.remote import status

_COLUMNS = ("REPLICA", "STATE", "FOR", "RESTARTS", "CALLS", "NOW", "WAITING", "MEMORY", "WHERE")


def main(arguments: Sequence[str]) -> int:
    """Print a line for each replica."""
    parser = parser_for("status", "Show the replicas of running tools.")
    parser.add_argument("--json", action="store_true", help="as one JSON list, and no more")
    options = options_of(parser, arguments)
    seats = status(options.address, options.namespace).seats
    if options.json:
        print(json.dumps(list(map(_record, seats)), ensure_ascii=False, indent=2))
        return 0
    rows = [_COLUMNS, *map(_cells, seats)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    for seat in seats:
        if seat.reason:
            print(f"{_name(seat)}: {seat.reason}")
    return 0


def _name(seat: SeatReport) -> str:
    return f"{seat.group} {seat.index}"


def _cells(seat: SeatReport) -> tuple[str, ...]:
    first = (_name(seat), seat.state, f"{seat.since_s:.0f} s", str(seat.num_restarts))
    health = seat.health
    if health is None:
        return (*first, "-", "-", "-", "-", "-")
    now = health.num_accepted - health.num_waiting
    where = f"{health.node} {health.process_id}"
    memory = f"{health.resident_bytes / 1e6:.0f} MB"
    return (*first, str(health.num_calls), str(now), str(health.num_waiting), memory, where)


def _record(seat: SeatReport) -> dict[str, object]:
    health = seat.health
    record: dict[str, object] = {
        "process": seat.group,
        "index": seat.index,
        "state": seat.state,
        "since_s": round(seat.since_s, 3),
        "num_restarts": seat.num_restarts,
        "reason": seat.reason,
    }
    if health is not None:
        record |= {
            "node": health.node,
            "process_id": health.process_id,
            "num_calls": health.num_calls,
            "num_accepted": health.num_accepted,
            "num_waiting": health.num_waiting,
            "longest_s": round(health.longest_s, 3),
            "resident_bytes": health.resident_bytes,
        }
    return record
