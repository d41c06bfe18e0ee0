"""How commands find the tools that this user's server keeps: one file, locked while they run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolshed.cli import main
from toolshed.commands.remote import (
    Announcement,
    Running,
    announced_path,
    config_name,
    find_running,
    locate,
)
from toolshed.config import load_tools
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "numbers.yaml"
ADD = ["call", "calculator.add", "a=1", "b=2", "--config", CONFIG]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run-time folder of the test's own; the test works beside a config."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    (tmp_path / CONFIG).write_text("calculator: {backend: light}\n")
    monkeypatch.chdir(tmp_path)
    return folder


def running(config: str = CONFIG, address: str = "127.0.0.1:1") -> Running:
    shown = ToolSet.of(load_tools(config))
    return Running(
        address=address,
        namespace="toolshed",
        config=config_name(config),
        schema_hash=shown.schema_hash,
        families=("calculator",),
    )


def test_tools_are_found_while_their_server_runs(place: Path) -> None:
    assert find_running() is None
    first = Announcement(running(address="a:1"))
    assert find_running() == running(address="a:1")
    assert announced_path().stat().st_mode & 0o777 == 0o600
    second = Announcement(running(address="b:2"))
    found = find_running()
    assert found is not None and found.address == "b:2"
    # The file is the second one's by now.
    first.close()
    assert find_running() == found
    second.close()
    assert find_running() is None and list(place.iterdir()) == []


def test_without_a_runtime_folder_there_is_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert find_running() is None
    announcement = Announcement(running())
    folder = announced_path().parent
    assert folder == tmp_path / f"toolshed-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700 and find_running() == running()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="you alone may write to"):
        find_running()
    announcement.close()


def stale(place: Path) -> None:
    (place / "toolshed.json").write_text(json.dumps(dataclasses.asdict(running())))


@pytest.mark.parametrize("command", ["status", "stop", "scale calculator 1", "drain calculator 0"])
def test_commands_say_in_one_sentence_that_there_are_none(
    place: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    assert "no --address is given" in capsys.readouterr().err
    stale(place)
    assert main(command.split()) == 2
    told = capsys.readouterr().err
    assert "that run no longer" in told and told.count("\n") == 1


def test_what_is_typed_comes_first() -> None:
    announcement = Announcement(dataclasses.replace(running(), namespace="other"))
    options = argparse.Namespace(address=None, namespace=None)
    locate(options)
    assert (options.address, options.namespace) == ("127.0.0.1:1", "other")
    options = argparse.Namespace(address="a:1", namespace=None)
    locate(options)
    assert (options.address, options.namespace) == ("a:1", "toolshed")
    announcement.close()
    options = argparse.Namespace(address=None, namespace=None)
    locate(options, otherwise="auto")
    assert (options.address, options.namespace) == ("auto", "toolshed")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: running("demo"), "are of demo"),
        (lambda: dataclasses.replace(running(), schema_hash="0"), "another state of numbers"),
        (lambda: dataclasses.replace(running(), families=()), "another state of numbers"),
    ],
)
def test_a_call_does_not_use_other_tools(
    make: Callable[[], Running], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announcement = Announcement(make())
    assert main(ADD) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("tools: in process; those running at") and told in captured.err
    announcement.close()


def test_a_call_ignores_a_stale_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ADD) == 0
    assert capsys.readouterr().err.startswith("tools: in process\n")
    stale(place)
    assert main(ADD) == 0
    captured = capsys.readouterr()
    assert "tools: in process;" in captured.err and "that run no longer" in captured.err
    assert captured.out.strip() == "1 + 2 = 3"


@pytest.mark.ray
def test_a_call_uses_the_tools_that_serve_keeps() -> None:
    pytest.importorskip("ray")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def toolshed(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "toolshed.cli", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    server = toolshed("serve", CONFIG)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("tools: serving at "), server.communicate()
        address = line.split()[-1]
        out, err = toolshed(*ADD).communicate(timeout=120)
        assert out.strip() == "1 + 2 = 3" and f"tools: those running at {address}" in err, err
        out, err = toolshed(*ADD, "--local").communicate(timeout=120)
        assert out.strip() == "1 + 2 = 3" and "tools: in process\n" in err, err
        out, err = toolshed("status").communicate(timeout=120)
        assert "calculator 0" in out, err
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert not announced_path().exists()
