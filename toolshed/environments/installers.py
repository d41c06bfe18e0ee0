"""Programs that make environments: uv where it can be had, pip otherwise, conda where asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from toolshed.environments.pip_settings import pip_configuration, uv_settings
from toolshed.environments.preflight import Unusable, probe
from toolshed.errors import ConfigError

_CONDA_LIKE = ("micromamba", "mamba", "conda")
"""Not pixi: it makes no environment at a given place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Installer:
    """Commands that make a venv and install into it."""

    uv: str | None
    """Path of uv; None where pip does the work."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that the commands need."""

    def venv(self, interpreter: Path, folder: Path) -> tuple[str, ...]:
        """The command that makes an empty venv in a new folder."""
        if self.uv is None:
            return (str(interpreter), "-m", "venv", str(folder))
        return (
            self.uv,
            "venv",
            "--quiet",
            "--python",
            str(interpreter),
            str(folder),
        )

    def install(self, python: Path, *words: str) -> tuple[str, ...]:
        """The command that installs into the environment of an interpreter."""
        if self.uv is None:
            return (str(python), "-m", "pip", "install", "--quiet", *words)
        # No bytecode yet: the import check writes that of the modules that are used.
        return (self.uv, "pip", "install", "--python", str(python), *words)


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaLike:
    """A program that makes conda prefixes."""

    program: str

    def create(self, folder: Path, python: str) -> tuple[str, ...]:
        """The command that makes a prefix with a Python in it."""
        return (self.program, "create", "--yes", "--prefix", str(folder), f"python={python}", "pip")


def find_installer(folder: Path | None, say: Callable[[str], None] = print) -> Installer:
    """uv of the path, of this environment, or fetched into ``folder``; pip where none can be had.

    Without a folder nothing is fetched.
    """
    uv = shutil.which("uv") or _own("uv") or (folder and _fetched(folder / ".uv", say))
    variables = uv_settings(pip_configuration(sys.executable), os.environ)
    # A Python that uv would fetch comes from a code host, which few clusters reach.
    return Installer(
        uv=uv or None, variables={"UV_PYTHON_DOWNLOADS": "never", **variables} if uv else {}
    )


def _own(program: str) -> str | None:
    path = Path(sys.executable).with_name(program)
    return str(path) if path.is_file() else None


def _fetched(folder: Path, say: Callable[[str], None]) -> str | None:
    """uv from the package index, in a small venv of its own."""
    program = folder / "bin" / "uv"
    if not program.is_file():
        say("fetching uv (about 40 MB)")
        commands = (
            (sys.executable, "-m", "venv", str(folder)),
            (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"),
        )
        for command in commands:
            if subprocess.run(command, capture_output=True, check=False).returncode != 0:
                say("uv cannot be had, pip does its work (slower)")
                return None
    return str(program)


def conda_like() -> CondaLike:
    """The first conda-like program of the path; ConfigError where there is none."""
    for name in _CONDA_LIKE:
        if program := shutil.which(name):
            return CondaLike(program=program)
    raise ConfigError(
        f"none of {', '.join(_CONDA_LIKE)} is on the PATH; install one, or write 'kind: venv' in "
        "the environment's env.yaml"
    )


def bridge_python(version: str) -> Path | None:
    """An interpreter ``major.minor`` that runs; None where a conda-like program can bring one,
    ConfigError where nothing can."""
    for candidate in _candidates(version):
        try:
            if probe(candidate).python.split(".")[:2] == version.split("."):
                return candidate
        except Unusable:
            continue
    try:
        conda_like()
    except ConfigError as error:
        raise ConfigError(
            f"no Python {version} was found; install python{version}, or give an interpreter with "
            f"--python, or put one of {', '.join(_CONDA_LIKE)} on the PATH"
        ) from error
    return None


def _candidates(version: str) -> Iterator[Path]:
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    # The shims of pyenv run only the versions that are switched on; the versions lie there all.
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    yield from sorted((root / "versions").glob(f"{version}*/bin/python"), reverse=True)
    for uv in (shutil.which("uv"), _own("uv")):
        if uv is not None:
            command = [uv, "python", "find", "--no-python-downloads", version]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                yield Path(done.stdout.strip())
                return
