"""Where code that a model wrote is run: a fresh child process under the strongest sandbox there is.

Levels, strongest first: ``sandlock`` (Landlock and seccomp), ``bwrap`` (name spaces), ``rlimits``
(limits and denied system calls, but the files of its user). A level counts only after a probe of
it, run like any other code, could neither read a file outside, nor open a connection, nor take too
much memory; ``docs/SECURITY.md`` says what each keeps out.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from toolshed.errors import ConfigError

Level = Literal["sandlock", "bwrap", "rlimits"]
Ended = Literal["ended", "wall", "cpu", "memory", "processes", "disk", "output", "died"]
PROGRAMS = Path(__file__).resolve().parent
_SPARE_USERS = (61_184, 65_519)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one run may use, whatever it starts included."""

    cpu_s: float = 10.0
    wall_s: float = 30.0
    """Tools that the code calls included."""
    memory_bytes: int = 512 << 20
    processes: int = 32
    """Threads count as well."""
    output_bytes: int = 1 << 20
    """Standard output and errors together."""
    disk_bytes: int = 64 << 20
    result_bytes: int = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A folder made for one run, and what is in it."""

    folder: Path
    """The code's working folder, the only place where it may write."""
    programs: Path
    """The child's program, its codec and numpy; read only."""
    user: int | None
    """Whom the run belongs to where the caller is root and may lend it; None is the caller."""
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """The Python that runs code, and where what it needs lies."""

    executable: str
    library: str
    """Folder that holds the standard library and, mostly, the interpreter's shared library."""
    numpy: tuple[str, ...]
    """Folders of numpy and of the libraries that come with it."""

    @classmethod
    def here(cls) -> Interpreter:
        """The interpreter of this process, without its other packages."""
        spec = importlib.util.find_spec("numpy")
        assert spec is not None and spec.origin is not None, "toolshed needs numpy"
        numpy = Path(spec.origin).resolve().parent
        beside = [each for each in (numpy.parent / "numpy.libs",) if each.is_dir()]
        return cls(
            executable=str(Path(sys.executable).resolve()),
            library=str(Path(os.__file__).resolve().parent.parent),
            numpy=tuple(map(str, [numpy, *beside])),
        )

    @property
    def readable(self) -> list[str]:
        """What a process of it reads."""
        system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
        own = [self.executable, self.library, *self.numpy]
        return [*own, *(each for each in system if Path(each).exists())]


class Sandbox(Protocol):
    """One level: how a command is wrapped so that it runs there."""

    level: Level
    skip: int
    """How many processes in line are the sandbox's own."""

    def missing(self) -> str:
        """What this machine lacks for it, as far as that shows before a probe; empty if nothing."""

    def command(self, box: Box, python: Interpreter, inner: Sequence[str]) -> list[str]:
        """The command that runs ``inner`` in this sandbox."""


class Sandlock:
    level: Level = "sandlock"
    skip = 1

    def missing(self) -> str:
        if importlib.util.find_spec("sandlock") is None:
            return "the package sandlock (pip install 'spacetools[sandbox]')"
        return ""

    def command(self, box: Box, python: Interpreter, inner: Sequence[str]) -> list[str]:
        spec = importlib.util.find_spec("sandlock")
        assert spec is not None and spec.origin is not None, "missing() was asked"
        policy = {
            "packages": str(Path(spec.origin).resolve().parent.parent),
            "fs_readable": [*python.readable, str(box.programs), "/dev/null", "/dev/urandom"],
            "fs_writable": [str(box.folder), "/dev/null"],
            "cwd": str(box.folder),
            # Asking for too much is a MemoryError, and the launcher watches what is held; this
            # counts what all processes ask for together, libraries and all, and kills.
            "max_memory": 4 * box.limits.memory_bytes + (1 << 30),
            "max_processes": box.limits.processes,
            "max_open_files": 256,
            "clean_env": True,
            "env": environment(box),
            "no_coredump": True,
        }
        confine = str(PROGRAMS / "confine.py")
        return [sys.executable, "-I", "-S", "-B", confine, json.dumps(policy), *inner]


class Bubblewrap:
    level: Level = "bwrap"
    skip = 2

    def missing(self) -> str:
        return "" if shutil.which("bwrap") else "the program bwrap (Debian: bubblewrap)"

    def command(self, box: Box, python: Interpreter, inner: Sequence[str]) -> list[str]:
        bound: list[str] = []
        for path in [*python.readable, str(box.programs)]:
            real = str(Path(path).resolve())
            bound += ["--ro-bind", real, real]
            if real != path and Path(path).is_symlink():
                bound += ["--symlink", os.readlink(path), path]
        for device in ("/dev/null", "/dev/urandom"):
            bound += ["--dev-bind", device, device]
        bound += ["--bind", str(box.folder), str(box.folder), "--chdir", str(box.folder)]
        names = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        program = shutil.which("bwrap")
        assert program is not None, "missing() was asked"
        # The root that bwrap makes is memory; read-only, nothing can be hoarded there.
        return [program, *names, *bound, "--remount-ro", "/", *inner]


class Rlimits:
    level: Level = "rlimits"
    skip = 0

    def missing(self) -> str:
        if sys.platform != "linux":
            return "Linux"
        if os.geteuid() == 0 and spare_user(Interpreter.here()) is None:
            return "a user other than root, whose files nothing at this level would protect"
        return ""

    def command(self, box: Box, python: Interpreter, inner: Sequence[str]) -> list[str]:
        return list(inner)


SANDBOXES: tuple[Sandbox, ...] = (Sandlock(), Bubblewrap(), Rlimits())
"""Strongest first."""
LEVELS: dict[str, Level] = {each.level: each.level for each in SANDBOXES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Code to run."""

    code: str
    mode: Literal["exec", "eval"] = "exec"
    variables: Mapping[str, object] = field(default_factory=dict)
    """JSON values and arrays, by the names that they have in the code."""
    tools: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the arguments of the tools that it may call, by dotted name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What a run left behind."""

    ended: Ended
    """How: by itself, at a limit, or before it could say so."""
    kind: str = ""
    """Of the result, where a session can keep it: ``number list array image``."""
    result: Any = None
    """JSON or an array; as the code made it, so nothing about it is certain but its kind."""
    text: str = ""
    """Beginning of the result's printed form; empty where there is none."""
    text_length: int = 0
    stdout: str = ""
    stderr: str = ""
    """With the traceback of an error of the code."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0


def choose(require_level: Level | None = None) -> Sandbox:
    """The strongest sandbox that works here; ConfigError where none is as strong as required."""
    reasons = []
    for sandbox in SANDBOXES:
        missing = missing_for(sandbox.level)
        if not missing:
            return sandbox
        reasons.append(f"{sandbox.level} needs {missing}")
        if sandbox.level == require_level:
            break
    wanted = f"require_level: {require_level}" if require_level else "running code"
    raise ConfigError(f"{wanted} cannot be had on this machine: {'; '.join(reasons)}")


def describe() -> str:
    """The level that code runs under here and what stronger ones lack, for people."""
    try:
        chosen = choose()
    except ConfigError as error:
        return f"none: {error}"
    lacking = []
    for sandbox in SANDBOXES[: SANDBOXES.index(chosen)]:
        lacking.append(f"{sandbox.level} needs {missing_for(sandbox.level)}")
    return f"{chosen.level} ({'; '.join(lacking)})" if lacking else chosen.level


@functools.cache
def missing_for(level: Level) -> str:
    """What a level lacks on this machine; empty where a probe of it went well."""
    (sandbox,) = (each for each in SANDBOXES if each.level == level)
    missing = sandbox.missing()
    if missing:
        return missing
    from toolshed.sandbox.probe import probe

    return probe(sandbox)


def spare_user(python: Interpreter) -> int | None:
    """A user that owns nothing, where the caller is root and everybody may read what runs."""
    if os.geteuid() != 0 or not all(map(_everybody_reads, python.readable)):
        return None
    low, high = _SPARE_USERS
    return low + os.getpid() % (high - low)


def _everybody_reads(path: str) -> bool:
    resolved = Path(path).resolve()
    through = all(each.stat().st_mode & stat.S_IXOTH for each in resolved.parents)
    return through and bool(resolved.stat().st_mode & stat.S_IROTH)


def environment(box: Box) -> dict[str, str]:
    """All that the code finds in its environment."""
    threads = {f"{each}_NUM_THREADS": "1" for each in ("OPENBLAS", "OMP", "MKL")}
    return {"HOME": str(box.folder), "TMPDIR": str(box.folder), "LC_ALL": "C.UTF-8", **threads}
