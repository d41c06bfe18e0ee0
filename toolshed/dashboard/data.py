"""What the dashboard's page is told: an overview of running tools in the words of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toolshed.metrics import NUM_BUCKETS, UNKNOWN_TOOL, Key, Tally, bucket_end_s, merged, quantile_s
from toolshed.serving.registry import SeatReport
from toolshed.serving.reports import HISTORY_S, Overview, Recent
from toolshed.types import Json

OUTCOMES = ("ok", "refused", "failed")
STAGES = ("queue", "transfer", "run", "encode")
_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which tools the page shows."""

    address: str
    namespace: str


def constants() -> dict[str, Json]:
    """What never changes while a page is open."""
    ends = [_ms(bucket_end_s(each)) for each in range(NUM_BUCKETS)]
    return {"bucket_ends_ms": [*ends], "history_s": HISTORY_S, "stages": [*STAGES]}


def page_data(overview: Overview, place: Place) -> dict[str, Json]:
    """Everything but the recent calls."""
    tallies = overview.tallies
    return {
        "now_s": overview.now_s,
        "address": place.address,
        "namespace": place.namespace,
        "problem": "",
        "programs": [*overview.programs],
        "groups": [_group(overview, key) for key in overview.names],
        "history": [[*each] for each in overview.history],
        "latency": _latency(tallies.values()),
        "tools": [_tool(name, tallies) for name in _names(tallies)],
    }


def call_data(call: Recent) -> dict[str, Json]:
    """One recent call; its picture has an address of its own."""
    timings = call.timings
    stages = (timings.queue_s, timings.transfer_s, timings.run_s, timings.encode_s)
    return {
        # As text, because numbers of a page have 53 bits.
        "number": str(call.number),
        "at_s": call.at_s,
        "tool": call.tool,
        "outcome": call.outcome,
        "reason": call.reason,
        "text": call.text,
        "program": call.program,
        "total_ms": _ms(timings.total_s),
        "stages_ms": [_ms(each) for each in stages],
        "has_picture": bool(call.picture),
    }


def _names(tallies: Mapping[Key, Tally]) -> list[str]:
    """Tools by name, the unknown ones last."""
    return sorted({key.tool for key in tallies}, key=lambda name: (name == UNKNOWN_TOOL, name))


def _group(overview: Overview, key: str) -> dict[str, Json]:
    load = overview.loads[key]
    seats = sorted(overview.registry.of_group(key), key=lambda each: each.index)
    return {
        "key": key,
        "families": overview.names[key],
        "interactive": load.interactive,
        "rollout": load.rollout,
        "running": load.running,
        "replicas": [_replica(each) for each in seats],
    }


def _replica(seat: SeatReport) -> dict[str, Json]:
    health = seat.health
    told: dict[str, Json] = {
        "name": seat.name,
        "index": seat.index,
        "state": seat.state,
        "reason": seat.reason,
        "since_s": seat.since_s,
        "num_restarts": seat.num_restarts,
        "health": None,
    }
    if health is not None:
        told["health"] = {
            "node": health.node,
            "process_id": health.process_id,
            "num_accepted": health.num_accepted,
            "num_waiting": health.num_waiting,
            "longest_s": health.longest_s,
            "num_calls": health.num_calls,
            "resident_mb": health.resident_bytes / 1e6,
        }
    return told


def _tool(name: str, tallies: Mapping[Key, Tally]) -> dict[str, Json]:
    own = {key: tally for key, tally in tallies.items() if key.tool == name}
    by_outcome = {
        outcome: [tally for key, tally in own.items() if key.outcome == outcome]
        for outcome in OUTCOMES
    }
    answered = merged(by_outcome["ok"])
    reasons = sorted((-tally.num, key.outcome, key.reason) for key, tally in own.items())
    return {
        "name": name,
        "num": {outcome: merged(found).num for outcome, found in by_outcome.items()},
        "latency": {
            "all": _latency(own.values()),
            **{outcome: _latency(found) for outcome, found in by_outcome.items()},
        },
        "reasons": [[outcome, reason, -num] for num, outcome, reason in reasons if reason],
        # Of answered calls, because the others do not say where their time went.
        "stages_ms": [_ms(each / max(1, answered.num)) for each in answered.stages_s[:4]],
    }


def _latency(tallies: Iterable[Tally]) -> dict[str, Json]:
    """Quantiles, and the counts of the buckets from the first to the last that has any."""
    buckets = merged(tallies).buckets
    used = [index for index, num in enumerate(buckets) if num]
    first, last = (used[0], used[-1]) if used else (0, -1)
    told: dict[str, Json] = {"first": first, "counts": [*buckets[first : last + 1]]}
    for name, share in _SHARES.items():
        told[name] = _quantile_ms(buckets, share)
    return told


def _quantile_ms(buckets: Sequence[int], share: float) -> float | None:
    found = quantile_s(buckets, share)
    return None if found is None else _ms(found)


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
