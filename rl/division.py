"""``python -m rl.division CONFIG [key=value ...]``: what ``scripts/run_rl.sh`` divides GPUs by, as
lines ``key=value``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rl.config import RLConfig
from sft.config import load_config
from toolshed.command import run_command


def division(config: RLConfig) -> dict[str, str]:
    """What samples and where, the tools, and how engines take GPUs; no value has a line break."""
    has_engine = config.policy == "sglang"
    return {
        "policy": config.policy,
        "device": config.device,
        "tools": config.tools.config,
        "out": config.out,
        "tensor_parallel": str(config.engine.tensor_parallel if has_engine else 1),
        "colocated": "true" if has_engine and config.engine.colocated else "false",
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rl.division", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value")
    args = parser.parse_args(words)

    def run() -> int:
        found = division(load_config(RLConfig, "rl", args.config, args.words))
        print("\n".join(f"{key}={value}" for key, value in found.items()))
        return 0

    return run_command(run, "rl")


if __name__ == "__main__":
    sys.exit(main())
