"""What the commands for running tools have in common: how they are told which ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from toolshed.serving.cluster import prepare


def parser_for(command: str, description: str) -> argparse.ArgumentParser:
    """A parser that knows ``--address`` and ``--namespace``."""
    parser = argparse.ArgumentParser(prog=f"toolshed {command}", description=description)
    parser.add_argument(
        "--address",
        required=True,
        help="address of the running tools, or the file that toolshed serve --address-file wrote",
    )
    parser.add_argument(
        "--namespace", default="toolshed", help="Ray namespace of the tools (default: toolshed)"
    )
    return parser


def options_of(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """What was typed; ConfigError where Ray is missing, which running tools are asked through."""
    options = parser.parse_args(arguments)
    prepare()
    return options


def at_least_zero(text: str) -> int:
    """A whole number for argparse."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return number
