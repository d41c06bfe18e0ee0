"""How near our rollouts come to the shortest possible, and what becomes of their tokens.

In virtual time: *makespan*, the calibrated trace of ``rollout_trace.py``, caches off, over its
lower bound: the busiest family's work over its replicas, or the longest trajectory, decoded.
*Barrier*: the same trace where each turn waits for its last trajectory, over ours. *Executions*:
with the cache on, calls that were run over distinct calls. *Overlap*: six steps with a measured
update of 363 s each, rollout and update in turns, over the same with ``max_staleness=1``.

Not simulated (``rollout_tokens.py``): image-processor calls over distinct pictures, the share of
places that are padding, loss tokens that were not sampled over all, trajectories whose trained ids
are not the sampled ones. With a real engine (``rollout_engine.py``): tokens computed, picture bytes
sent, bytes of a weight update; where its environment is missing the exit code is 3, unless
``--only own`` leaves the engine out.

``--selftest`` handicaps our side (24 trajectories in flight, one replica less of each family,
caches off, the barrier on our side too, no staleness, tokens and pictures handled carelessly) and
exits with 1 unless each figure moves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

# Before this file's folder, because its files have names of the library's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# Before torch is imported: on small models a second thread costs 20 times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.bench.rollout_engine import measure_engine, why_not
from scripts.bench.rollout_simulation import Setting, play
from scripts.bench.rollout_tokens import measure_tokens
from scripts.bench.rollout_trace import Trace, calibrated, many_turns

BARS: dict[str, tuple[str, float]] = {
    "makespan_ratio": ("<=", 1.12),
    "makespan_ratio_worst": ("<=", 1.18),
    "barrier_ratio": (">=", 1.35),
    "barrier_ratio_many_turns": (">=", 2.0),
    "executions_per_distinct": ("<=", 1.0),
    "calls_per_distinct": (">=", 2.0),
    "preprocess_duplication": ("<=", 1.0),
    "padding_waste": ("<=", 0.05),
    "loss_token_share_error": ("<=", 0.0),
    "retokenisation_drift": ("<=", 0.0),
    "token_overhead": ("<=", 1.05),
    "image_resend": ("<=", 1.1),
    "sync_bytes_ratio": ("<=", 1.0),
}
ENGINE_FIGURES = ("token_overhead", "image_resend", "sync_bytes_ratio")
UPDATE_S = 363.0
"""Of a measured step: the update and the way of its weights to the engine."""
OVERLAPPED_STEPS = 6
OURS = Setting()
NOT_MEASURED = 3
"""Exit code where figures that were asked for could not be had; stderr says why."""
Figures = dict[str, float]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=5, help="traces of each kind (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether handicaps show")
    parser.add_argument("--only", choices=("own",), help="own: nothing that needs an engine")
    options = parser.parse_args(words)
    figures = measure(options.seeds)
    worse: Figures = {}
    reason = "" if options.only else why_not()
    if reason:
        print(f"{', '.join(ENGINE_FIGURES)}: not measured, {reason}", file=sys.stderr)
    elif not options.only:
        with_engine, worse = measure_engine(careless=options.selftest)
        figures |= with_engine
    moved: dict[str, bool] = {}
    if options.selftest:
        worse |= handicapped(options.seeds)
        moved = {name: _has_moved(name, figures, value) for name, value in worse.items()}
        figures |= {f"handicapped_{name}": value for name, value in worse.items()}
    if options.json:
        print(json.dumps({name: round(value, 6) for name, value in figures.items()}))
    else:
        _print(figures)
    for name in (name for name, has_moved in moved.items() if not has_moved):
        print(f"{name} did not move under its handicap", file=sys.stderr)
    if not all(moved.values()) or any(_is_missed(n, v) for n, v in figures.items()):
        return 1
    return NOT_MEASURED if reason else 0


def measure(num_seeds: int) -> Figures:
    """Every figure of our side; ratios over the lower bound or over the baseline."""
    ratios = makespan_ratios(num_seeds, OURS)
    return {
        "makespan_ratio": statistics.median(ratios),
        "makespan_ratio_worst": max(ratios),
        "barrier_ratio": barrier_ratio(calibrated, num_seeds, OURS),
        "barrier_ratio_many_turns": barrier_ratio(many_turns, num_seeds, OURS),
        **executions(num_seeds, remember=True),
        **overlap(num_seeds, max_staleness=1),
        **measure_tokens(0, careless=False),
    }


def handicapped(num_seeds: int) -> Figures:
    """The same figures, each with the handicap that it should show."""
    narrow = makespan_ratios(num_seeds, replace(OURS, width=24))
    fewer = makespan_ratios(num_seeds, replace(OURS, missing_replicas=1))
    with_barrier = replace(OURS, per_turn_barrier=True)
    return {
        "makespan_ratio": statistics.median(narrow),
        "makespan_ratio_worst": max(fewer),
        "barrier_ratio": barrier_ratio(calibrated, num_seeds, with_barrier),
        "barrier_ratio_many_turns": barrier_ratio(many_turns, num_seeds, with_barrier),
        "executions_per_distinct": executions(num_seeds, remember=False)["executions_per_distinct"],
        "overlap": overlap(num_seeds, max_staleness=0)["overlap"],
        **measure_tokens(0, careless=True),
    }


def makespan_ratios(num_seeds: int, setting: Setting) -> list[float]:
    traces = [calibrated(seed) for seed in range(num_seeds)]
    return [play([trace], setting).makespan_s / trace.bound_s() for trace in traces]


def barrier_ratio(make: Callable[[int], Trace], num_seeds: int, ours: Setting) -> float:
    """Median over seeds of the baseline's makespan over ours."""
    baseline = replace(OURS, per_turn_barrier=True)
    traces = [make(seed) for seed in range(num_seeds)]
    return statistics.median(
        play([trace], baseline).makespan_s / play([trace], ours).makespan_s for trace in traces
    )


def executions(num_seeds: int, *, remember: bool) -> Figures:
    """With caches: the most executions per distinct call, and the fewest calls per distinct one."""
    ran, made = [], []
    for seed in range(num_seeds):
        trace = calibrated(seed)
        distinct = len({call.what for call in trace.calls})
        ran.append(play([trace], replace(OURS, remember=remember)).num_executions / distinct)
        made.append(len(trace.calls) / distinct)
    return {"executions_per_distinct": max(ran), "calls_per_distinct": min(made)}


def overlap(num_seeds: int, *, max_staleness: int) -> Figures:
    """The time of some steps in turns over the time with ``max_staleness``, and the mean staleness
    of their trajectories."""
    traces = [calibrated(seed % num_seeds) for seed in range(OVERLAPPED_STEPS)]
    in_turns = replace(OURS, update_s=UPDATE_S)
    ahead = replace(in_turns, max_staleness=max_staleness)
    played = play(traces, ahead)
    return {
        "overlap": play(traces, in_turns).makespan_s / played.makespan_s,
        "overlap_staleness": played.staleness,
    }


def _has_moved(name: str, figures: Figures, handicapped: float) -> bool:
    sign, _ = BARS.get(name, (">=", 0.0))
    better = figures[name]
    return handicapped > 1.1 * better if sign == "<=" else handicapped < 0.9 * better


def _is_missed(name: str, value: float) -> bool:
    sign, bar = BARS.get(name, ("", 0.0))
    return (sign == "<=" and value > bar) or (sign == ">=" and value < bar)


def _print(figures: Figures) -> None:
    for name, value in figures.items():
        sign, bar = BARS.get(name, ("", 0.0))
        held = f"   {sign} {bar:g}" if sign else ""
        print(f"{name:38} {value:9.4f}{held}{'   MISSED' if _is_missed(name, value) else ''}")


if __name__ == "__main__":
    began_s = time.perf_counter()
    code = main()
    print(f"took {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
    sys.exit(code)
