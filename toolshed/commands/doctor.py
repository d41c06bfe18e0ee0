"""``toolshed doctor``: what this machine can do with tools, and what is missing for the rest."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import toolshed
from toolshed.errors import ConfigError

EXTRAS = {
    "light": ("scipy", "mujoco"),
    "ray": ("ray",),
    "serve": ("fastapi", "uvicorn"),
    "mcp": ("mcp",),
    "sandbox": ("sandlock",),
}
"""Extras and the packages that each brings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing that was looked at."""

    name: str
    found: str
    """Empty where there is none."""
    remedy: str = ""
    """What brings it, where it is missing."""


def main(arguments: Sequence[str]) -> int:
    """Print the rows, then what the doctor of the environments says."""
    options = _parser().parse_args(arguments)
    rows = [*_machine(), *map(_extra, EXTRAS), _sandbox()]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2))
        return 0
    width = max(len(row.name) for row in rows) + 2
    for row in rows:
        print(f"{row.name:<{width}}{row.found or f'missing; {row.remedy}'}")
    return _environments()


def _machine() -> list[Row]:
    home = Path(toolshed.__file__).parent
    gpus = "nvidia-smi is there" if shutil.which("nvidia-smi") else "none seen"
    return [
        Row(name="python", found=f"{platform.python_version()} on {platform.system()}"),
        Row(name="toolshed", found=str(home)),
        Row(name="cores", found=str(len(os.sched_getaffinity(0)))),
        Row(name="gpu", found=gpus),
    ]


def _extra(name: str) -> Row:
    remedy = f"pip install 'spacetools[{name}]'"
    packages = EXTRAS[name]
    if any(importlib.util.find_spec(package) is None for package in packages):
        return Row(name=f"[{name}]", found="", remedy=remedy)
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return Row(name=f"[{name}]", found=", ".join(versions), remedy=remedy)


def _sandbox() -> Row:
    from toolshed.sandbox.levels import choose, describe

    try:
        choose()
    except ConfigError as error:
        return Row(name="sandbox", found="", remedy=f"apt-get install bubblewrap ({error})")
    return Row(name="sandbox", found=describe())


def _environments() -> int:
    from toolshed.commands import env

    print()
    return env.main(["doctor"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed doctor",
        description="Show what this machine can do with tools, and what is missing for the rest.",
    )
    parser.add_argument("--json", action="store_true", help="the rows as one JSON list, no more")
    return parser
