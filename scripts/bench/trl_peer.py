"""TRL in an environment of its own, and the process in which its trainer takes steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from toolshed.environments.installers import find_installer
from toolshed.environments.recipes import environments_folder

PROGRAM = Path(__file__).with_name("trl_grpo.py")


def peer_python() -> Path:
    """The interpreter that has TRL, the latest where it has to be installed (once, 1.2 GB).

    RuntimeError with the installer's last words where it cannot be had.
    """
    folder = environments_folder() / "bench-trl"
    python = folder / "bin" / "python"
    done = folder / "done"
    if done.exists():
        return python
    installer = find_installer(None)
    # torch alone at first, so that the machine's own wheel is taken.
    commands = [installer.install(python, each) for each in ("torch>=2.13,<2.14", "trl")]
    if not python.exists():
        commands.insert(0, installer.venv(Path(sys.executable), folder))
    for command in commands:
        ran = subprocess.run(
            command,
            env={**os.environ, **installer.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()[-500:]}")
    done.touch()
    return python


class Peer:
    """TRL's trainer at work; it waits between two calls of ``run``.

    RuntimeError with its last words where it ends.
    """

    def __init__(
        self, python: Path, folder: Path, job: dict[str, Any], program: Path = PROGRAM
    ) -> None:
        path = folder / "job.json"
        path.write_text(json.dumps(job))
        self._log = (folder / "trl.log").open("w+")
        self._process = subprocess.Popen(
            [str(python), str(program), str(path)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
        )
        self.versions: dict[str, str] = self._answer()

    def run(self, steps: int) -> dict[str, float]:
        """Take steps; wall_s, cpu_s, tokens and what else the program tells, of them all."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        told: dict[str, float] = self._answer()
        return told

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"TRL ended: {self._log.read()[-1000:]}")
        return json.loads(line)
