"""Look at an interpreter before Ray sees it: a missing one hangs Ray, another Python or pydantic 1
kills its workers without a word to the caller."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 10.0
_MARK = "toolshed-probe:"
"""Before the answer; modules print what they like. In the script it stands in two parts, so that a
program that repeats its words answers nothing."""
_SCRIPT = f"""
import json, os, platform, sys
sys.path[:] = sys.path[1:] + [os.getcwd()]
def version(name):
    try:
        from importlib.metadata import version
        return version(name)
    except Exception:
        return None
names = json.loads(sys.argv[1])
found = {{"python": platform.python_version(), "failures": {{}}}}
for name in ("ray", "pydantic", "numpy", "torch"):
    found[name] = version(name)
for name in names:
    try:
        __import__(name)
    except BaseException as error:
        found["failures"][name] = "%s: %s" % (type(error).__name__, error)
module = sys.modules.get("toolshed")
found["package"] = os.path.realpath(os.path.dirname(module.__file__)) if module else None
sys.stdout.write("\\n{_MARK[:8]}" + "{_MARK[8:]}" + json.dumps(found) + "\\n")
"""
"""Runs under any Python 3 and ends well whatever a module does when it is imported. The caller's
folder comes last: its modules import in a worker as well, but must not hide installed ones."""


class Unusable(Exception):
    """An interpreter that did not answer; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What an interpreter says of itself; None for a package that it lacks."""

    python: str
    ray: str | None
    pydantic: str | None
    numpy: str | None
    torch: str | None
    package: str | None
    """Folder of its ``toolshed``, where that was imported."""
    failures: dict[str, str]
    """By module that does not import, the reason."""


def probe(
    python: Path,
    modules: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    limit_s: float = LIMIT_S,
) -> Probe:
    """Ask an interpreter for its versions and let it import modules; Unusable where it cannot.

    ``environ`` is added to the environment variables.
    """
    if not python.exists():
        raise Unusable(f"there is no interpreter at {python}")
    command = [str(python), "-c", _SCRIPT, json.dumps(list(modules))]
    try:
        text = _output(command, environ or {}, limit_s)
    except OSError as error:
        raise Unusable(f"{python} cannot be run: {error.strerror}") from error
    _, mark, answer = text.rpartition(_MARK)
    try:
        return Probe(**json.loads(answer.partition("\n")[0] if mark else ""))
    except (ValueError, TypeError):
        said = text.strip()[-300:] or "it says nothing"
        raise Unusable(f"{python} is no working Python 3: {said}") from None


def _output(command: Sequence[str], environ: Mapping[str, str], limit_s: float) -> str:
    with subprocess.Popen(
        command,
        env={**without_python_settings(), **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            return child.communicate(timeout=limit_s)[0]
        except subprocess.TimeoutExpired:
            # What it started itself may hold the pipe open.
            os.killpg(child.pid, signal.SIGKILL)
            raise Unusable(f"{command[0]} did not answer within {limit_s:g} s") from None


def without_python_settings() -> dict[str, str]:
    """This process's environment variables without those that point Python at other packages, or
    keep it from writing bytecode, without which a large engine takes twice as long to start."""
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONDONTWRITEBYTECODE")
    others = ("VIRTUAL_ENV", "CONDA_PREFIX")
    kept = {name: text for name, text in os.environ.items() if name not in (*ours, *others)}
    return {**kept, "PYTHONNOUSERSITE": "1"}


def problems_of(found: Probe, *, bridge: bool) -> list[str]:
    """Why an interpreter with these versions cannot serve tools; empty where it can."""
    problems = [
        f"module {name} does not import ({reason})" for name, reason in found.failures.items()
    ]
    ours = str(Path(__file__).resolve().parents[1])
    if found.package not in (None, ours):
        problems.append(f"its toolshed is {found.package} and ours {ours}")
    if found.numpy is None:
        problems.append("numpy is missing")
    return problems if bridge else [*problems, *_ray_problems(found)]


def _ray_problems(found: Probe) -> list[str]:
    problems = []
    if not same_python(found.python):
        problems.append(
            f"its Python is {found.python} and ours {platform.python_version()}; "
            "Ray's workers need the very same"
        )
    if found.ray is None:
        problems.append("ray is missing")
    elif found.ray != (ours := version_of("ray")):
        problems.append(f"its ray is {found.ray} and ours {ours}")
    if found.pydantic is not None and found.pydantic.startswith("1."):
        problems.append(f"its pydantic is {found.pydantic}, which kills Ray's workers; 2 does not")
    return problems


def version_of(package: str) -> str | None:
    """The version in this process, which is the cluster's for ray; None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def same_python(theirs: str) -> bool:
    """Whether Ray takes workers of this version: the very same, or less where Ray is told so."""
    ours = platform.python_version()
    if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor":
        return theirs.split(".")[:2] == ours.split(".")[:2]
    return theirs == ours
