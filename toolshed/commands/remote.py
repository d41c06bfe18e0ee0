"""What the commands for running tools have in common: how they are told which ones."""

from __future__ import annotations

import argparse


def parser_for(command: str, description: str) -> argparse.ArgumentParser:
    """A parser that knows ``--address``."""
    parser = argparse.ArgumentParser(prog=f"toolshed {command}", description=description)
    parser.add_argument(
        "--address",
        default=None,
        help="address of the running tools, or the file that has it "
        "(default: the tools that were started last on this machine)",
    )
    return parser


def at_least_zero(text: str) -> int:
    """A whole number for argparse."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number
