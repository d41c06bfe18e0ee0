"""``toolshed schemas``: the schemas of a tool config, printed as one JSON list."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import get_args

from toolshed.schemas import Form, schemas_of


def main(arguments: Sequence[str]) -> int:
    """Print the list and nothing else."""
    options = _parser().parse_args(arguments)
    listed = schemas_of(options.config, options.format, mangle=options.mangle)
    print(json.dumps(listed, ensure_ascii=False, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed schemas",
        description="Print the schemas of a tool config as one JSON list, in the order of the "
        "file. Needs no weights and starts nothing.",
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="word such as 'light', or path of a tool YAML"
    )
    parser.add_argument(
        "--format",
        choices=get_args(Form),
        default="openai",
        help="whose form (default: openai); anthropic and mcp write '__' for the dot of a name",
    )
    parser.add_argument(
        "--mangle", action="store_true", help="write '__' for the dot in the form openai, too"
    )
    return parser
