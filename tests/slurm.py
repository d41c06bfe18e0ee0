"""A pretended SLURM cluster on this machine: ``sbatch``, ``srun`` and ``scontrol`` as scripts."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Runs a copy of the script from a spool folder, in a session of its own, and says its number. What
# SLURM starts again keeps its number (--requeue-of N).
_SBATCH = """#!/usr/bin/env bash
restarts=0 number=$$
while [ "${1#--}" != "$1" ]; do
  case "$1" in --requeue-of) number=$2 restarts=1; shift ;; esac
  shift
done
spool=$STATE/spool.$number.$restarts
mkdir -p "$spool"
cp "$1" "$spool/slurm_script"
shift
export SLURM_JOB_ID=$number SLURM_JOB_NODELIST=${NODES:-n1} SLURMD_NODENAME=n1 SLURM_SUBMIT_DIR=$PWD
export SLURM_CLUSTER_NAME=stub SLURM_JOB_NAME=spacetools
[ "$restarts" = 0 ] || export SLURM_RESTART_COUNT=$restarts
setsid bash "$spool/slurm_script" "$@" </dev/null >>"$STATE/out.$number" 2>&1 &
echo $! >"$STATE/pid.$number"
echo "Submitted batch job $number"
"""
_SCONTROL = """#!/usr/bin/env bash
case "$*" in
  "show hostnames n1") echo n1 ;;
  "show hostnames n[1-2]") printf 'n1\\nn2\\n' ;;
  "show hostnames n1,127.0.0.2") printf 'n1\\n127.0.0.2\\n' ;;
  *) exit 1 ;;
esac
"""
_SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
_HOSTNAME = "#!/bin/sh\necho n1\n"


class Cluster:
    """Its jobs run ``script``; whatever they leave behind is found by a mark."""

    def __init__(self, folder: Path, script: Path) -> None:
        self.folder, self.state, self.script = folder, folder / "state", script
        self.mark = uuid.uuid4().hex
        self.state.mkdir()
        (folder / "bin").mkdir()
        (folder / "home").mkdir()
        for name, text in {
            "sbatch": _SBATCH,
            "scontrol": _SCONTROL,
            "srun": _SRUN,
            "hostname": _HOSTNAME,
        }.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "STATE": str(self.state),
            "MARK": self.mark,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            **more,
        }

    def run(self, *words: str, **variables: str) -> tuple[int, str, str]:
        """The script itself, not submitted."""
        done = subprocess.run(
            ["bash", str(self.script), *words],
            env=self.environment(**variables),
            cwd=ROOT,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    def submit(self, *words: str, **variables: str) -> str:
        """Number of the job."""
        done = subprocess.run(
            ["sbatch", *words],
            env=self.environment(**variables),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout.split()[-1]

    def leader(self, job: str) -> int:
        return int((self.state / f"pid.{job}").read_text())

    def told(self, job: str) -> str:
        return (self.state / f"out.{job}").read_text()

    def processes(self) -> list[str]:
        """Command lines of everything that a job of this cluster left or still runs."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"MARK={self.mark}".encode() in (folder / "environ").read_bytes():
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    # A zombie has no command line.
                    found += [f"{folder.name} {line}"] if line.strip() else []
            except OSError:
                continue
        return found


def wait_for(found: Callable[[], bool], seconds: float, told: Callable[[], object]) -> None:
    until_s = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until_s, told()
        time.sleep(0.05)
