"""Runs one command and watches it: whatever it starts is counted, limited, and gone at the end.

A program of its own with the standard library alone. Its standard input is a line of JSON (what to
run, see ``main``), then a lifeline: when the caller closes it, or dies, everything is killed. Its
standard output is a line of JSON: why it ended, and what was used.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_SUBREAPER = 36
_TICK_S = 0.05
_CLOCK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_FILES = 4096


def main() -> int:
    spec = json.loads(_first_line())
    # Processes whose parent ends become ours, so that none can slip away.
    if ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("this kernel has no child subreapers")
    started_s = time.monotonic()
    child = subprocess.Popen(
        spec["command"],
        stdin=spec["stdin"],
        stdout=spec["stdout"],
        stderr=spec["stderr"],
        env=spec["env"],
        cwd=spec["folder"],
        start_new_session=True,
        **_owner(spec["user"]),
    )
    for number in (spec["stdin"], spec["stdout"], spec["stderr"]):
        os.close(number)
    watch = Watch(child.pid, spec["skip"], spec["limits"], spec["folder"], started_s)
    try:
        reason = watch.until_end()
    finally:
        status = _kill_all(child)
    if reason == "left":
        # A caller that was killed cannot tidy up.
        import shutil

        shutil.rmtree(Path(spec["folder"]).parent, ignore_errors=True)
    report = {
        "reason": reason,
        "status": status,
        "wall_s": time.monotonic() - started_s,
        "cpu_s": watch.cpu_s,
        "memory_bytes": watch.memory_bytes,
    }
    print(json.dumps(report), flush=True)
    return 0


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 if len(line) > 65536 else 4096)
        if not piece:
            raise SystemExit("no line to read")
        line += piece
    return line


def _owner(user: int | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


class Watch:
    """Looks at a command's processes until it ends or goes over a limit."""

    def __init__(
        self, pid: int, skip: int, limits: dict[str, float], folder: str, started_s: float
    ) -> None:
        self.cpu_s = 0.0
        self.memory_bytes = 0
        self._pid = pid
        self._skip = skip
        """How many processes in line, the command first, are the sandbox's own."""
        self._limits = limits
        self._folder = folder
        self._started_s = started_s
        self._cpu: dict[int, float] = {}

    def until_end(self) -> str:
        """``ended``, ``left`` (the caller did) or a limit: ``wall cpu memory processes disk``."""
        poll = select.poll()
        poll.register(0, select.POLLIN | select.POLLHUP)
        ended = os.pidfd_open(self._pid)
        poll.register(ended, select.POLLIN)
        while True:
            ready = [number for number, _ in poll.poll(_TICK_S * 1000)]
            over = self._over()
            if over:
                return over
            if ended in ready:
                return "ended"
            if 0 in ready:
                return "left"

    def _over(self) -> str:
        if time.monotonic() - self._started_s > self._limits["wall_s"]:
            return "wall"
        inside = self._inside()
        for pid, (_, cpu_s, _) in inside.items():
            self._cpu[pid] = cpu_s
        self.cpu_s = sum(self._cpu.values())
        if self.cpu_s > self._limits["cpu_s"]:
            return "cpu"
        if sum(threads for _, _, threads in inside.values()) > self._limits["processes"]:
            return "processes"
        held = sum(map(_memory, inside))
        self.memory_bytes = max(self.memory_bytes, held)
        if held > self._limits["memory_bytes"]:
            return "memory"
        return "disk" if _disk_over(self._folder, self._limits["disk_bytes"]) else ""

    def _inside(self) -> dict[int, tuple[int, float, int]]:
        """Parent, CPU seconds and threads of each process that the sandbox holds."""
        found = descendants()
        outside = self._pid
        for _ in range(self._skip):
            below = [pid for pid, (parent, _, _) in found.items() if parent == outside]
            found.pop(outside, None)
            outside = min(below, default=0)
        return found


def descendants() -> dict[int, tuple[int, float, int]]:
    """Parent, CPU seconds and threads of every process below this one, by its number."""
    listed: dict[int, tuple[int, float, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue
            parts = text.rpartition(")")[2].split()
            # After the name in brackets: state, parent, ... utime 11, stime 12, threads 17.
            cpu_s = (int(parts[11]) + int(parts[12])) / _CLOCK
            listed[int(name)] = (int(parts[1]), cpu_s, int(parts[17]) if parts[0] != "Z" else 0)
    known = {os.getpid()}
    found: dict[int, tuple[int, float, int]] = {}
    below: dict[int, list[int]] = {}
    for pid, (parent, _, _) in listed.items():
        below.setdefault(parent, []).append(pid)
    while known:
        known = {pid for parent in known for pid in below.get(parent, [])}
        found.update({pid: listed[pid] for pid in known})
    return found


def _memory(pid: int) -> int:
    """Bytes of a process, what it shares with others divided among them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(pages[1]) - int(pages[2])) * _PAGE


def _disk_over(folder: str, limit: float) -> bool:
    num_bytes = num_files = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    num_files += 1
                    info = entry.stat(follow_symlinks=False)
                    num_bytes += max(info.st_blocks * 512, 0)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if num_bytes > limit or num_files > _MOST_FILES:
                        return True
        except OSError:
            continue
    return False


def _kill_all(child: subprocess.Popen[bytes]) -> int:
    """Kill whatever is left, again until nothing is; returns how the command itself ended."""
    status = child.poll()
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        left = descendants()
        # Stopped first: what is stopped cannot fork away from its end.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in left:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        if status is None:
            status = child.poll()
        if not _reap(child.pid if status is None else 0) and not left:
            break
        time.sleep(0.002)
    return child.wait(timeout=1) if status is None else status


def _reap(spared: int) -> bool:
    """Collect what has ended, but for the command itself; whether anything is left to collect."""
    while True:
        try:
            done = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if done is None or done.si_pid == spared:
            return True
        os.waitpid(done.si_pid, 0)


if __name__ == "__main__":
    sys.exit(main())
