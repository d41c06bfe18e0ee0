"""What code in a sandbox can do, at every level that this machine has; tried, not assumed.

Whatever is injected is bounded: loops end in ten seconds, floods at a limit, bombs at 100 forks.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolshed.errors import ToolFailure
from toolshed.sandbox import launcher, levels
from toolshed.sandbox.levels import SANDBOXES, Finished, Job, Limits, Sandbox, choose
from toolshed.sandbox.probe import no_tools
from toolshed.sandbox.run import Reply, run_job

ROOT = Path(__file__).resolve().parents[2]
QUICK = dataclasses.replace(Limits(), cpu_s=0.7, wall_s=10.0)
SHORT = dataclasses.replace(Limits(), wall_s=2.0)
STRONG = ("sandlock", "bwrap")


@pytest.fixture(params=[each.level for each in SANDBOXES])
def box(request: pytest.FixtureRequest) -> Sandbox:
    """Each level that works here; the lowest one also where root would not be given it."""
    (found,) = (each for each in SANDBOXES if each.level == request.param)
    missing = levels.missing_for(found.level)
    if missing and found.level != "rlimits":
        pytest.skip(f"{found.level} needs {missing}")
    return found


def run(box: Sandbox, code: str, limits: Limits = QUICK, /, **variables: object) -> Finished:
    return asyncio.run(run_job(box, Job(code=code, variables=variables), no_tools, limits))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    # Other tests' children, such as Ray's processes, are descendants as well.
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    before = set(launcher.descendants()), set(folder.glob("toolshed-code-*"))
    yield
    assert not _boxed(set(launcher.descendants()) - before[0]), "a process was left behind"
    assert not set(folder.glob("toolshed-code-*")) - before[1], "a folder was left behind"


def _boxed(processes: set[int]) -> list[bytes]:
    """Command lines of those that belong to a sandbox."""
    found = []
    for process in processes:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{process}/cmdline").read_bytes()
            if any(word in line for word in (b"toolshed-code", b"toolshed/sandbox", b"bwrap")):
                found.append(line)
    return found


def test_a_program_runs_with_its_variables_and_numpy(box: Sandbox) -> None:
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = run(box, "print(name)\ngrid += step\ngrid", grid=grid, step=0.5, name="é")
    assert (found.ended, found.kind, found.stdout) == ("ended", "array", "é\n")
    np.testing.assert_array_equal(found.result, grid + 0.5)
    assert found.result.dtype == np.float32 and found.stderr == ""


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("while True: pass", "cpu", ""),
        ("import os\nos.fork()\nos.fork()\nwhile True: pass", "cpu", ""),
        ("while True: print('x' * 1000)", "output", ""),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output", ""),
        ("for n in range(100): open(str(n), 'wb').write(bytes(2 << 20))", "disk", ""),
        ("open('big', 'wb').write(bytes(100 << 20))", "ended", "File too large"),
        ("held = b'x' * (600 << 20)", "ended", "MemoryError"),
        ("import os; os._exit(3)", "died", ""),
        ("import signal; signal.raise_signal(9)", "died", ""),
    ],
)
def test_every_limit_holds(box: Sandbox, code: str, ended: str, said: str) -> None:
    started_s = time.monotonic()
    found = run(box, code)
    assert found.ended == ended and said in found.stderr
    assert len(found.stdout) + len(found.stderr) <= QUICK.output_bytes
    assert time.monotonic() - started_s < QUICK.wall_s + 5


def test_the_wall_limit_holds(box: Sandbox) -> None:
    started_s = time.monotonic()
    assert run(box, "time.sleep(60)", SHORT).ended == "wall"
    assert SHORT.wall_s < time.monotonic() - started_s < SHORT.wall_s + 5


def test_memory_of_all_processes_together_is_limited(box: Sandbox) -> None:
    limits = dataclasses.replace(QUICK, memory_bytes=128 << 20)
    code = "import os\nfor _ in range(3): os.fork()\nheld = b'x' * (60 << 20)\ntime.sleep(9)"
    found = run(box, code, limits)
    assert found.ended == "memory" and found.memory_bytes > limits.memory_bytes


def test_a_fork_bomb_is_bounded(box: Sandbox) -> None:
    code = """
import os
made = 0
for _ in range(100):
    try:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
    except OSError:
        break
    made += 1
time.sleep(1)
result = made
"""
    found = run(box, code)
    # Refused by the sandbox at its limit, or ended by the launcher when it saw too many.
    assert found.ended == "processes" or (found.ended == "ended" and found.result <= 32)


def test_a_sleeping_child_does_not_outlive_the_run(box: Sandbox) -> None:
    code = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(100)
result = 5
"""
    found = run(box, code)
    assert (found.ended, found.result) == ("ended", 5)


def test_nothing_of_the_caller_is_seen(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    code = """
import os, sys
open_files = []
for number in range(3, 64):
    try:
        os.fstat(number)
    except OSError:
        continue
    open_files.append(number)
result = [sorted(os.environ), open_files, "toolshed" in sys.modules, sys.argv[1:]]
"""
    names, files, has_library, words = run(box, code).result
    assert set(names) <= {
        "HOME", "TMPDIR", "LC_ALL", "LC_CTYPE", "PWD",
        "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    }  # fmt: skip
    assert len(files) == 1, "the socket to the caller alone"
    assert not has_library and words == []


TRIED = """
import os, socket
def tried(attempt):
    try:
        attempt()
        return "done"
    except (OSError, ValueError, ImportError) as error:
        return type(error).__name__
def unix():
    socket.socket(socket.AF_UNIX).connect(path)
result = [tried(each) for each in attempts()]
"""


def attempts(box: Sandbox, text: str, **variables: str | int) -> list[str]:
    code = f"def attempts():\n    return [{text}]\n{TRIED}"
    found = run(box, code, QUICK, **variables)
    assert found.ended == "ended", found
    return list(found.result)


def test_no_level_opens_a_connection(box: Sandbox, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        found = attempts(
            box,
            "lambda: socket.create_connection(('127.0.0.1', port), 1), unix,"
            "lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            port=tcp.getsockname()[1],
            path=str(tmp_path / "socket"),
        )
    assert "done" not in found


def test_strong_levels_hide_the_files(box: Sandbox, tmp_path: Path) -> None:
    if box.level not in STRONG:
        pytest.skip("this level promises nothing about files")
    (tmp_path / "secret").write_text("secret")
    found = attempts(
        box,
        "lambda: open('/etc/passwd').read(), lambda: open(secret).read(),"
        "lambda: os.listdir(root).index('README.md'), lambda: open(f'{root}/README.md').read(),"
        "lambda: open('/proc/1/environ').read(), lambda: open(f'{tmp}/written', 'w'),"
        "lambda: open('/dev/shm/written', 'w'), lambda: open('/written', 'w'),"
        "lambda: os.kill(os.getppid(), 0)",
        secret=str(tmp_path / "secret"),
        root=str(ROOT),
        tmp=str(tmp_path),
    )
    assert "done" not in found
    assert not (tmp_path / "written").exists()


def test_hands_stay_bound(box: Sandbox) -> None:
    found = attempts(
        box,
        "lambda: __import__('resource').setrlimit(0, (999, 999)), lambda: os.setuid(1),"
        "lambda: os.memfd_create('x'), lambda: os.kill(1, 0), lambda: os.chroot('/')",
    )
    assert "done" not in found


OTHERS = """
import ctypes, fcntl, os, platform, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
tgkill = {"x86_64": 234, "aarch64": 131}[platform.machine()]
setpriority = {"x86_64": 141, "aarch64": 140}[platform.machine()]
other = os.fork()
if other == 0:
    time.sleep(5)
    os._exit(7)
def tried(attempt):
    try:
        return "done" if attempt() != -1 else "PermissionError"
    except OSError as error:
        return type(error).__name__
def owned(command, value):
    reading, _ = os.pipe()
    fcntl.fcntl(reading, command, value)
attempts = [
    lambda: libc.syscall(tgkill, other, other, 9),
    lambda: resource.prlimit(other, resource.RLIMIT_CPU, (1, 1)),
    lambda: resource.prlimit(other, resource.RLIMIT_CPU),
    lambda: os.sched_setaffinity(other, os.sched_getaffinity(0)),
    lambda: libc.syscall(setpriority, 0, other, 19),
    lambda: owned(fcntl.F_SETOWN, other),
    lambda: owned(10, 9),
]
result = [tried(each) for each in attempts]
ended, code = os.waitpid(other, os.WNOHANG)
own = []
signal.signal(signal.SIGUSR1, lambda number, frame: own.append(number))
signal.raise_signal(signal.SIGUSR1)
limit = resource.prlimit(0, resource.RLIMIT_NOFILE)
same = resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE) == limit
result = [result, ended, len(own), same]
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="has no filter here")
def test_other_processes_cannot_be_signalled_nor_limited(box: Sandbox) -> None:
    found = run(box, OTHERS)
    assert found.ended == "ended", found
    tried, ended, signals, same = found.result
    # The child is of the same user: without the filter the kernel would allow all of it.
    assert set(tried) == {"PermissionError"} and ended == 0
    assert signals == 1 and same, "a program may raise signals of its own and ask for its limits"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f():\n    return 1 / 0\nf()", ['File "<code>", line 3', "ZeroDivisionError"]),
        ("print(1)\nx = = 2", ["SyntaxError"]),
        ("class Odd(BaseException): pass\nraise Odd('why')", ["Odd: why"]),
    ],
)
def test_errors_show_the_lines_of_the_code_alone(box: Sandbox, code: str, words: list[str]) -> None:
    found = run(box, code)
    assert found.ended == "ended" and found.kind == "" and found.stdout == ""
    assert all(word in found.stderr for word in words), found.stderr
    assert "child.py" not in found.stderr


def test_each_run_is_a_fresh_process() -> None:
    box = choose()
    assert run(box, "left = result = 7\nopen('left', 'w').close()").result == 7
    found = run(box, "import os\nresult = ['left' in globals(), os.listdir('.')]")
    assert found.result == [False, []]


def test_forged_and_huge_messages_are_data(monkeypatch: pytest.MonkeyPatch) -> None:
    box = choose()
    raw = "import os\nos.write(3, {})\nos._exit(0)"
    assert run(box, raw.format("b'x' * 64")).ended == "died"
    huge = "b'TSF1' + (1 << 31).to_bytes(4, 'little') + (1 << 62).to_bytes(8, 'little')"
    assert run(box, raw.format(huge)).ended == "died"
    large = run(box, "np.zeros(80 << 20, np.uint8)", dataclasses.replace(QUICK, cpu_s=5.0))
    assert large.ended == "died" and large.result is None


def test_a_failing_tool_ends_the_run() -> None:
    async def broken(name: str, arguments: dict[str, Any]) -> Reply:
        raise ToolFailure("timeout", "gone")

    job = Job(code="tools.a.b(1)\ntime.sleep(60)", tools={"a.b": ["x"]})
    with pytest.raises(ToolFailure, match="gone"):
        asyncio.run(run_job(choose(), job, broken, QUICK))


def test_a_cancelled_run_leaves_nothing() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(run_job(choose(), Job(code="time.sleep(60)"), no_tools))
        await asyncio.sleep(0.7)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started_s = time.monotonic()
    asyncio.run(cancelled())
    assert time.monotonic() - started_s < 5


def test_a_killed_caller_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import asyncio\n"
        "from toolshed.sandbox.probe import no_tools\n"
        "from toolshed.sandbox.levels import SANDBOXES, Job\n"
        "from toolshed.sandbox.run import run_job\n"
        'code = \'open("started", "w").close()\\ntime.sleep(25)\'\n'
        "asyncio.run(run_job(SANDBOXES[-1], Job(code=code), no_tools))\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment)
    assert eventually(lambda: list(tmp_path.glob("*/work/started")))
    caller.kill()
    caller.wait()
    assert eventually(lambda: not list(tmp_path.iterdir()))
    assert eventually(lambda: str(tmp_path).encode() not in command_lines())


def eventually(holds: Callable[[], object]) -> bool:
    for _ in range(300):
        if holds():
            return True
        time.sleep(0.05)
    return False


def command_lines() -> bytes:
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes()
    return found


def test_runs_leave_no_descriptor() -> None:
    box = choose()
    run(box, "1")
    before = len(os.listdir("/proc/self/fd"))
    for code in ("1", "import os; os._exit(1)", "1 / 0"):
        run(box, code)
    assert len(os.listdir("/proc/self/fd")) == before


def test_runs_go_side_by_side() -> None:
    async def both() -> list[Finished]:
        jobs = [Job(code=f"time.sleep(0.5)\n{number}") for number in range(3)]
        return list(await asyncio.gather(*(run_job(choose(), each, no_tools) for each in jobs)))

    assert [each.result for each in asyncio.run(both())] == [0, 1, 2]
