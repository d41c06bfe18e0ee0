"""Rows of several sources at a ratio: as many as the scarcest allows, or scarce ones repeated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from sft.curation.balance import answer_word
from sft.curation.ledger import Ledger
from sft.curation.traces import Trace
from toolshed.errors import ConfigError


def mix(
    traces: list[Trace], parts: Mapping[str, int], repeat: bool, seed: int, ledger: Ledger
) -> list[Trace]:
    """Rows in their order, copies after them; ConfigError where a named source has no rows.

    Fewer rows of a source are an even choice over its tasks, answers and chains, so that a balance
    that was made before stays to within a row of each.
    """
    if not parts:
        return traces
    held = Counter(trace.source for trace in traces)
    for source in parts:
        if not held[source]:
            known = ", ".join(sorted(held)) or "none"
            raise ConfigError(
                f"mix names the source {source!r}, of which no row is left; sources: {known}"
            )
    numbers = wanted({source: held[source] for source in parts}, parts, repeat=repeat)
    rng = np.random.default_rng([seed, 2])
    times: Counter[int] = Counter()
    for source in parts:
        rows = [trace for trace in traces if trace.source == source]
        times.update(_chosen(rows, numbers[source], rng))
    for trace in traces:
        if trace.source not in parts:
            ledger.drop(trace, "mix", "other_source", f"mix does not name {trace.source!r}")
        elif not times[id(trace)]:
            told = f"{numbers[trace.source]} of {held[trace.source]} rows of {trace.source}"
            ledger.drop(trace, "mix", "ratio", told)
    once = [trace for trace in traces if times[id(trace)]]
    again = range(1, max(times.values(), default=0))
    return once + [trace for number in again for trace in once if times[id(trace)] > number]


def wanted(held: Mapping[str, int], parts: Mapping[str, int], *, repeat: bool) -> dict[str, int]:
    """Rows of each source at exactly the ratio of ``parts``: the most that need no repetition, or
    with ``repeat`` the least that leave out no row."""
    if repeat:
        unit = max(math.ceil(held[source] / part) for source, part in parts.items())
    else:
        unit = min(held[source] // part for source, part in parts.items())
    if not unit:
        scarce = min(parts, key=lambda source: held[source] / parts[source])
        raise ConfigError(
            f"mix.{scarce}={parts[scarce]} is more than the {held[scarce]} rows of {scarce}; give "
            "smaller numbers, repeat=true, or more traces"
        )
    return {source: unit * part for source, part in parts.items()}


def _chosen(rows: Sequence[Trace], number: int, rng: np.random.Generator) -> Counter[int]:
    """How often each row is taken, by id: all of them equally often, the rest spread evenly."""
    drawn = rng.permutation(len(rows)).tolist()
    order = sorted(
        range(len(rows)),
        key=lambda n: (rows[n].task, answer_word(rows[n]), rows[n].chain, drawn[n]),
    )
    whole, rest = divmod(number, len(rows))
    times = Counter({id(row): whole for row in rows if whole})
    for step in range(rest):
        times[id(rows[order[(2 * step + 1) * len(rows) // (2 * rest)]])] += 1
    return times
