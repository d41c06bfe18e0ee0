"""``python -m sft.division CONFIG [key=value ...]``: what ``scripts/run_sft.sh`` starts processes
by, as lines ``key=value``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sft.config import load_config
from sft.train import SFTConfig
from toolshed.command import run_command


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sft.division", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value")
    args = parser.parse_args(words)

    def run() -> int:
        config = load_config(SFTConfig, "sft", args.config, args.words)
        told = {"device": config.device, "out": config.out, "zero": config.learner.shard.zero}
        print("\n".join(f"{key}={value}" for key, value in told.items()))
        return 0

    return run_command(run, "sft")


if __name__ == "__main__":
    sys.exit(main())
