"""Which sandbox is chosen, what a machine that has none is told, what a result may be, and whose
fault a broken launcher is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from toolshed.errors import ConfigError, ToolFailure
from toolshed.sandbox import child, levels
from toolshed.sandbox import run as sandbox_run
from toolshed.sandbox.levels import Job, choose, describe
from toolshed.sandbox.probe import no_tools, probe
from toolshed.sandbox.run import run_job


def lacking(monkeypatch: pytest.MonkeyPatch, **missing: str) -> None:
    monkeypatch.setattr(levels, "missing_for", lambda level: missing.get(level, ""))


def test_the_strongest_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch)
    assert (choose().level, describe()) == ("sandlock", "sandlock")
    lacking(monkeypatch, sandlock="the package")
    assert choose().level == "bwrap" and describe() == "bwrap (sandlock needs the package)"
    assert choose("rlimits").level == "bwrap", "weaker is allowed, stronger is better"
    lacking(monkeypatch, sandlock="the package", bwrap="name spaces")
    assert choose().level == "rlimits"


def test_what_cannot_be_had_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, sandlock="the package", bwrap="name spaces", rlimits="Linux")
    with pytest.raises(ConfigError, match=r"bwrap needs name spaces.*rlimits needs Linux"):
        choose()
    assert describe().startswith("none")
    lacking(monkeypatch, sandlock="the package")
    with pytest.raises(ConfigError, match=r"require_level: sandlock .*needs the package"):
        choose("sandlock")


def test_a_probe_finds_what_a_level_does_not_keep() -> None:
    """The lowest level under a strong one's name: files can be read, so it is not that level."""

    class Pretender(levels.Rlimits):
        level: levels.Level = "bwrap"

    assert probe(Pretender()) == "a way to hide files: code in it could read one outside"


# ---- pieces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "number"),
        (np.float32(0.5), "number"),
        (float("nan"), ""),
        (10**20, ""),
        (True, ""),
        (None, ""),
        ("text", ""),
        ([1, [2.5, "a"]], "list"),
        ([(1, 2), np.ones(2)], "list"),
        ([object()], ""),
        (np.zeros((2, 2), dtype=bool), "array"),
        (np.zeros((2, 2, 3), dtype=np.uint8), "image"),
        (np.zeros((2, 2, 4), dtype=np.uint8), "array"),
        (np.array(["text"]), ""),
    ],
)
def test_what_a_session_can_keep(value: object, kind: str) -> None:
    assert child.storable(value)[0] == kind


def test_the_last_value_is_the_result() -> None:
    assert child.run("1\n2", "exec", {}) == 2
    assert child.run("result = 4\nprint", "exec", {}) is print
    assert child.run("result = 4\nNone", "exec", {}) == 4
    assert child.run(" 2 + 3 ", "eval", {}) == 5
    assert child.run("", "exec", {}) is None


@pytest.mark.parametrize(
    "breaks",
    [
        "raise SystemExit('no subreapers here')",
        "import sys, time\n"
        "for piece in ('Traceback:\\n', 'x' * 200_000, '\\nno subreapers here'):\n"
        "    print(piece, end='', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.2)\n",
    ],
)
def test_a_broken_launcher_is_the_machines_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, breaks: str
) -> None:
    (tmp_path / "launcher.py").write_text(breaks)
    for name in ("child.py", "confine.py"):
        (tmp_path / name).write_text((levels.PROGRAMS / name).read_text())
    monkeypatch.setattr(sandbox_run, "PROGRAMS", tmp_path)
    with pytest.raises(ToolFailure, match="no subreapers here"):
        asyncio.run(run_job(levels.SANDBOXES[-1], Job(code="1"), no_tools))
