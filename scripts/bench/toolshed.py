"""The tool server against raw Ray actors, a central router, and the work itself (rows a to f, i).

Ratios are medians of repetitions that alternate inside one run. In a to e result caches are off,
and the replicas' own counters must equal the number of calls. ``--selftest`` handicaps our side
(0.5 ms of computing before each no-op call, uneven calls pinned to few replicas, a cache that is
off) and exits with 1 unless the figures move.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Before this file's folder, because this file has the library's name.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.toolshed_calls import (
    Figures,
    measure_arrays,
    measure_calls,
    measure_uneven,
)
from scripts.bench.toolshed_rollouts import measure_rollouts
from toolshed.config import parse_tools
from toolshed.serving.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
BARS: dict[str, tuple[str, float]] = {
    "noop_p50_ratio": ("<=", 1.35),
    "throughput_64_ratio": (">=", 0.70),
    "array_50mb_ratio": ("<=", 2.0),
    "caller_bytes_copied": ("<=", 0.0),
    "uneven_efficiency": (">=", 0.92),
    "uneven_p99_ratio": ("<=", 1.4),
    "rl_makespan_ratio": ("<=", 1.15),
    "executions_per_distinct": ("<=", 1.0),
    "light_start_s": ("<=", 20.0),
}
PARTS = ("calls", "arrays", "uneven", "rollouts", "start")
_START = """
import time
began_s = time.perf_counter()
from toolshed import Toolshed
with Toolshed.open("light", host="ray"):
    print(time.perf_counter() - began_s)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether handicaps show")
    options = parser.parse_args()
    parts = options.parts or list(PARTS)
    figures = measure(parts, options.repeats, options.seed, handicapped=False)
    moved = True
    if options.selftest:
        handicapped = measure(parts, options.repeats, options.seed, handicapped=True)
        figures |= {f"handicapped_{name}": value for name, value in handicapped.items()}
        moved = _has_moved(figures)
    if options.json:
        print(json.dumps({name: round(value, 6) for name, value in figures.items()}))
    else:
        _print(figures)
    return 0 if moved else 1


def measure(parts: list[str], repeats: int, seed: int, *, handicapped: bool) -> Figures:
    figures: Figures = {}
    if "start" in parts and not handicapped:
        figures["light_start_s"] = _light_start_s()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        Cluster.enter(parse_tools({"roborefer": {"backend": "light"}}), 4)
        try:
            if "calls" in parts:
                figures |= measure_calls(place, repeats, 200, 5e-4 if handicapped else 0.0)
            if "arrays" in parts and not handicapped:
                figures |= measure_arrays(place, repeats, 50)
            if "uneven" in parts:
                figures |= measure_uneven(place, repeats, seed, pinned=handicapped)
            if "rollouts" in parts:
                figures |= measure_rollouts(place, repeats, seed, forgetful=handicapped)
        finally:
            Cluster.leave()
    return figures


def _light_start_s() -> float:
    """In a process of its own: what a person waits for."""
    told = subprocess.run(
        [sys.executable, "-c", _START], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(told.stdout)


def _has_moved(figures: Figures) -> bool:
    worse = [
        figures[f"handicapped_{name}"] > 1.1 * figures[name]
        if sign == "<="
        else figures[f"handicapped_{name}"] < 0.9 * figures[name]
        for name, (sign, _) in BARS.items()
        if f"handicapped_{name}" in figures and name != "rl_makespan_ratio"
    ]
    return bool(worse) and all(worse)


def _print(figures: Figures) -> None:
    for name, value in figures.items():
        sign, bar = BARS.get(name, ("", 0.0))
        held = "" if not sign else f"   {sign} {bar:g}"
        missed = sign and (value > bar if sign == "<=" else value < bar)
        print(f"{name:34} {value:12.4f}{held}{'   MISSED' if missed else ''}")


if __name__ == "__main__":
    began_s = time.perf_counter()
    code = main()
    print(f"took {time.perf_counter() - began_s:.0f} s", file=sys.stderr)
    sys.exit(code)
