"""Ctrl-C while a command is still being imported: one sentence and 130; other programs keep their
own ways."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTS = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(folder), str(ROOT)))
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("module", ["sft.train", "rl.train", "rl.collect", "eval.run"])
def test_a_command_that_is_being_imported_ends_with_one_sentence(
    module: str, tmp_path: Path
) -> None:
    (tmp_path / "argparse.py").write_text(INTERRUPTS)
    done = run(tmp_path, "-m", module, "demo")
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


def test_a_program_that_imports_a_room_is_interrupted_as_ever(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"import rl\n{INTERRUPTS}")
    for words in (("program.py",), ("-m", "program")):
        path = str(tmp_path / words[0]) if len(words) == 1 else words[0]
        done = run(tmp_path, path, *words[1:])
        assert done.returncode == -signal.SIGINT and "KeyboardInterrupt" in done.stderr


def test_a_command_under_way_gets_an_exception(tmp_path: Path) -> None:
    """Its own way of ending is not cut short."""
    (tmp_path / "hydra.py").write_text(INTERRUPTS)
    done = run(tmp_path, "-m", "rl.train", "demo")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    body = "from toolshed.command import run_command as run\nimport signal\n"
    body += "print(run(lambda: print(signal.getsignal(signal.SIGINT).__name__) or 0, 'toolshed'))"
    (tmp_path / "hydra.py").unlink()
    assert run(tmp_path, "-c", body).stdout == "default_int_handler\n0\n"
