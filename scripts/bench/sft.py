"""Supervised fine-tuning measured: packing, padding, ranks, memory of the loss, speed, data.

``sft_packing.py``, ``sft_memory.py``, ``sft_speed.py`` and ``sft_index.py`` say what each figure
is. With ``--json`` standard output holds one object alone; shares are fractions. ``--selftest``
injects the handicaps that those files state, and exits with 1 unless each figure moves beyond its
bar. What cannot be measured is left out, the reason goes to stderr, and the exit code is 3 unless
``--only`` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

# Before torch is imported: on small models a second thread costs 20 times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else DeepSpeed, which libraries load, tells standard output that there is no GPU.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from rl.tiny import TinyConfig, make_random, tool_sets
from scripts.bench import sft_memory, sft_packing, sft_speed

MOST = {
    "packed_max_diff": 1e-5,
    "padding_waste_1": 0.03,
    "padding_waste_8": 0.03,
    "rank_imbalance": 1.05,
    "loss_memory_ratio": 0.15,
    "index_7907_s": 60.0,
    "index_7907_rss_mb": 2048.0,
}
"""Bars that figures stay below."""
LEAST = {"trl_sft_speedup": 1.5, "llama_factory_sft_speedup": 1.5}
"""Bars that figures reach."""
NOT_MEASURED = 3
"""Exit code where a figure that was asked for could not be had; stderr says why."""
LLAMA_FACTORY = (
    "LLaMA-Factory is not compared: its latest release (0.9.5) wants transformers 5.6, trl 0.24, "
    "torchvision and torchaudio, and pip had not installed that here after 5 minutes"
)
Figures = dict[str, float]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a handicap shows")
    parser.add_argument("--rounds", type=int, default=3, help="against TRL (%(default)s)")
    parser.add_argument("--only", choices=tuple(MEASURED), help="one part alone")
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    torch.set_num_threads(1)
    asked = [options.only] if options.only else list(MEASURED)
    figures: Figures = {}
    for name in asked:
        measure, _ = MEASURED[name]
        with tempfile.TemporaryDirectory() as folder:
            figures |= measure(Path(folder), options.rounds, options.selftest)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<34} {value:.4g}")
    if _stays(figures) if options.selftest else _is_missed(figures):
        return 1
    wanted = [figure for name in asked for figure in MEASURED[name][1]]
    left_out = [figure for figure in wanted if figure not in figures]
    for figure in left_out:
        print(f"{figure}: not measured", file=sys.stderr)
    return NOT_MEASURED if left_out else 0


def _is_missed(figures: Figures) -> bool:
    return any(figures.get(name, 0.0) > bar for name, bar in MOST.items()) or any(
        figures.get(name, bar) < bar for name, bar in LEAST.items()
    )


def _stays(figures: Figures) -> bool:
    """Whether a handicap leaves its figure where it was: within its bar, within 0.8 of a speed-up,
    within 1.5 of the memory of the index, whose bar is far away."""
    prefix = "handicapped_"
    handicapped = {
        name.removeprefix(prefix): value for name, value in figures.items() if prefix in name
    }
    for name, value in handicapped.items():
        if name in LEAST and value > 0.8 * figures[name]:
            return True
        bar = 1.5 * figures[name] if name.startswith("index") else MOST.get(name, -np.inf)
        if value <= bar:
            return True
    return False


def _packing(folder: Path, rounds: int, handicapped: bool) -> Figures:
    make_random(folder, tool_sets(TinyConfig()), seed=0)
    figures = {"packed_max_diff": sft_packing.packed_max_diff(folder)}
    figures |= sft_packing.padding(folder)
    if handicapped:
        worse = {"packed_max_diff": sft_packing.packed_max_diff(folder, handicapped=True)}
        worse |= sft_packing.padding(folder, steps=5, handicapped=True)
        figures |= {f"handicapped_{name}": value for name, value in worse.items()}
    return figures


def _memory(folder: Path, rounds: int, handicapped: bool) -> Figures:
    return sft_memory.loss_memory(handicapped=handicapped)


def _trl(folder: Path, rounds: int, handicapped: bool) -> Figures:
    return sft_speed.compare(folder, rounds=rounds, handicapped=handicapped)


def _llama_factory(folder: Path, rounds: int, handicapped: bool) -> Figures:
    print(LLAMA_FACTORY, file=sys.stderr)
    return {}


def _index(folder: Path, rounds: int, handicapped: bool) -> Figures:
    """``sft_index.py``, a program of its own: it measures a process from its start."""
    import subprocess

    program = Path(__file__).with_name("sft_index.py")
    if not program.exists():
        print(f"index_7907_s is left out: {program} is not there", file=sys.stderr)
        return {}
    command = [sys.executable, str(program), "--json", *(["--selftest"] if handicapped else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    try:
        told: Figures = json.loads(done.stdout)
    except json.JSONDecodeError:
        print(f"index_7907_s is left out: {program.name} ended {done.returncode}", file=sys.stderr)
        return {}
    if "handicapped_rss_mb" in told:
        told["handicapped_index_7907_rss_mb"] = told.pop("handicapped_rss_mb")
    return told


MEASURED: dict[str, tuple[Callable[[Path, int, bool], Figures], tuple[str, ...]]] = {
    "packing": (
        _packing,
        ("packed_max_diff", "padding_waste_1", "padding_waste_8", "rank_imbalance"),
    ),
    "memory": (_memory, ("loss_memory_ratio",)),
    "trl": (_trl, ("trl_sft_speedup",)),
    "llama_factory": (_llama_factory, ("llama_factory_sft_speedup",)),
    "index": (_index, ("index_7907_s", "index_7907_rss_mb")),
}
"""Parts: how each is measured, and the figures that have bars."""


if __name__ == "__main__":
    sys.exit(main())
