"""scripts/ray_cluster.sh with pretended ssh, srun, scontrol and Ray; once with real Ray (slow)."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ray_cluster.sh"
SECRET = "0123456789abcdef-secret"

_SSH = """#!/usr/bin/env bash
echo "ssh $*" >>"$LOG"
while [ "$1" = -o ]; do shift 2; done
shift
exec bash -c "$*"
"""
_SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$LOG"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
_SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames n[1-3]" ] || exit 1
printf 'n1\\nn2\\nn3\\n'
"""
# Pretends to be an interpreter with Ray: notes which node is up, its token, and when it ends.
_PYTHON = """#!{python}
import os, pathlib, signal, sys, time
words, state = sys.argv[1:], pathlib.Path(os.environ["STATE"])
if words[:2] == ["-m", "ray.scripts.scripts"]:
    (label,) = [each for each in words if each.startswith("--labels=")]
    name = label.partition("toolshed-node=")[2]
    if name == os.environ.get("BROKEN"):
        sys.exit("no room on this device")
    if name == os.environ.get("LATE"):
        time.sleep(600)
    path = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    told = [os.environ["RAY_AUTH_MODE"], path.read_text(), oct(path.stat().st_mode & 0o777)]
    (state / f"up.{{name}}").write_text("\\n".join([*words, *told]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            time.sleep(0.05)
    finally:
        (state / f"down.{{name}}").touch()
elif words[:2] == ["-m", "toolshed.serving.await_nodes"]:
    address, *names = words[2:-2]
    until_s = time.monotonic() + float(words[-1])
    while missing := [each for each in names if not (state / f"up.{{each}}").exists()]:
        if time.monotonic() > until_s:
            sys.exit(f"{{', '.join(missing)}} did not join")
        time.sleep(0.05)
else:
    os.execv({python!r}, [{python!r}, *words])
"""


class Machines:
    """Pretended nodes, all on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.log = folder, folder / "state", folder / "log"
        self.token = folder / "home" / ".ray" / "auth_token"
        self.state.mkdir()
        (folder / "bin").mkdir()
        stubs = {"ssh": _SSH, "srun": _SRUN, "scontrol": _SCONTROL}
        stubs["python"] = _PYTHON.format(python=sys.executable)
        stubs["hostname"] = "#!/bin/sh\necho n1\n"
        for name, text in stubs.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        (folder / "home").mkdir()

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        kept = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
        }
        mine = {"LOG": str(self.log), "STATE": str(self.state)}
        return subprocess.Popen(
            ["bash", str(SCRIPT), "--python", str(self.folder / "bin" / "python"), *words],
            env={**kept, **mine, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(*words, **variables)
        said, complained = process.communicate(timeout=90)
        return process.returncode, said, complained

    def up(self, name: str) -> list[str]:
        return (self.state / f"up.{name}").read_text().splitlines()

    def names(self, state: str) -> set[str]:
        return {each.suffix[1:] for each in self.state.glob(f"{state}.*")}


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def wait_for(found: Callable[[], bool], seconds: float = 30.0) -> None:
    until_s = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until_s
        time.sleep(0.05)


BY_SSH = ("--hosts", "n1,n2,me@n3", "--ip", "10.0.0.1")
SLURM = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURMD_NODENAME": "n1"}
TELL = ("--", "bash", "-c", 'echo "$RAY_ADDRESS $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH"; exit 7')


def test_hosts_by_ssh(machines: Machines) -> None:
    code, said, complained = machines.run(*BY_SSH, "--port", "6400", *TELL)
    assert code == 7, complained
    assert said.split() == ["10.0.0.1:6400", "token", str(machines.token)]
    assert machines.names("up") == machines.names("down") == {"n1", "n2", "me@n3"}
    assert "head n1 at 10.0.0.1:6400" in complained and "all 3 nodes have joined" in complained
    head, node = machines.up("n1"), machines.up("n2")
    assert head[2:6] == ["start", "--head", "--node-ip-address=10.0.0.1", "--port=6400"]
    assert node[2:4] == ["start", "--address=10.0.0.1:6400"]
    # They start at the same time, so either may be the first to say so.
    calls = machines.log.read_text().splitlines()
    assert sorted(line.split(" bash ")[0].split()[-1] for line in calls) == ["me@n3", "n2"]
    assert all(f" bash {SCRIPT} --node " in line and "BatchMode=yes" in line for line in calls)


def test_nodes_of_a_slurm_job(machines: Machines) -> None:
    code, said, complained = machines.run("--ip", "10.0.0.1", *TELL, **SLURM)
    assert code == 7, complained
    assert machines.names("up") == machines.names("down") == {"n1", "n2", "n3"}
    calls = sorted(machines.log.read_text().splitlines())
    assert ["--nodelist=n2" in calls[0], "--nodelist=n3" in calls[1]] == [True, True]
    assert all("--overlap" in line and "--ntasks=1" in line for line in calls)
    assert said.startswith("10.0.0.1:")


def test_the_token_is_made_once_and_seen_by_nobody(machines: Machines) -> None:
    assert machines.run(*BY_SSH, *TELL)[0] == 7
    token = machines.token.read_text()
    assert len(token) == 64 and stat.S_IMODE(machines.token.stat().st_mode) == 0o600
    for name in ("n1", "n2", "me@n3"):
        assert machines.up(name)[-3:] == ["token", token, "0o600"]
    assert token not in machines.log.read_text()
    machines.token.chmod(0o644)
    code, _, complained = machines.run(*BY_SSH, *TELL)
    assert code == 7 and "closed" in complained
    assert machines.token.read_text() == token
    assert stat.S_IMODE(machines.token.stat().st_mode) == 0o600


def test_a_token_that_is_given_is_used(machines: Machines) -> None:
    assert machines.run(*BY_SSH, *TELL, RAY_AUTH_TOKEN=SECRET)[0] == 7
    assert machines.up("n2")[-2] == SECRET and not machines.token.exists()
    assert SECRET not in machines.log.read_text()


def test_nothing_is_left_behind(machines: Machines) -> None:
    folder = "--temp-dir="
    assert machines.run(*BY_SSH, *TELL, TMPDIR=str(machines.folder / "home"))[0] == 7
    (used,) = [each.removeprefix(folder) for each in machines.up("n1") if each.startswith(folder)]
    assert used.startswith("/tmp/ts-") and not Path(used).exists()
    assert [each.name for each in (machines.folder / "home").iterdir()] == [".ray"]


@pytest.mark.parametrize("broken", ["n1", "n2"])
def test_a_node_that_does_not_start_is_named_with_its_words(
    machines: Machines, broken: str
) -> None:
    code, said, complained = machines.run(*BY_SSH, *TELL, BROKEN=broken)
    assert (code, said) == (1, "")
    assert f"[{broken}] no room on this device" in complained
    assert f"node {broken}: Ray did not start there" in complained
    assert machines.names("up") == machines.names("down")


def test_a_node_that_does_not_come_is_named(machines: Machines) -> None:
    began_s = time.monotonic()
    code, said, complained = machines.run(*BY_SSH, "--deadline", "2", *TELL, LATE="n2")
    assert (code, said) == (1, "") and "n2 did not join" in complained
    assert machines.names("down") == {"n1", "me@n3"}
    assert time.monotonic() - began_s < 30


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interruption_ends_command_and_nodes(machines: Machines, number: int, code: int) -> None:
    done = machines.folder / "ended"
    script = (
        f"trap 'touch {done}; exit' TERM; touch {machines.state}/runs; while :; do sleep 0.1; done"
    )
    process = machines.start(*BY_SSH, "--", "bash", "-c", script)
    wait_for((machines.state / "runs").exists)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert done.exists()
    assert machines.names("down") == {"n1", "n2", "me@n3"}


def test_nodes_end_even_if_this_script_is_killed(machines: Machines) -> None:
    process = machines.start(*BY_SSH, "--", "bash", "-c", f"touch {machines.state}/runs; sleep 2")
    wait_for((machines.state / "runs").exists)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: machines.names("down") == {"n1", "n2", "me@n3"})


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        (("--hosts", "n1"), {}, "no command; write it after --"),
        (("--host", "n1", "--", "true"), {}, "unknown word '--host'"),
        (("--", "true"), {}, "no SLURM allocation here and no --hosts"),
        (("--hosts", "n1,n2,n1", "--", "true"), {}, "node n1 is named twice"),
        (("--hosts", "n1,-oProxyCommand=x", "--", "true"), {}, "'-oProxyCommand=x' is no name"),
        (("--hosts", "n2,n3", "--", "true"), {}, "n1 is not among n2 n3"),
        (
            ("--hosts", "n1", "--deadline", "soon", "--", "true"),
            {},
            "--deadline soon: whole seconds",
        ),
        (("--hosts", "n1", "--port", "x", "--", "true"), {}, "--port x: a number"),
        (("--python", "/no/python", "--hosts", "n1", "--", "true"), {}, "no interpreter"),
        (("--", "true"), {"SLURM_JOB_NODELIST": "x[1-2]"}, "scontrol cannot list the nodes"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    machines: Machines, words: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    code, said, complained = machines.run(*words, **variables)
    assert (code, said) == (2, "") and sentence in complained
    assert machines.names("up") == set() and not machines.log.exists()


def test_a_name_that_leads_nowhere_is_said(machines: Machines) -> None:
    code, _, complained = machines.run("--hosts", "n1,no-such-node.invalid", "--", "true")
    assert code == 1 and "node no-such-node.invalid: its name leads nowhere" in complained


def test_one_node_needs_no_other(machines: Machines) -> None:
    code, said, complained = machines.run("--hosts", "localhost", "--", "echo", "hello")
    assert (code, said) == (0, "hello\n"), complained
    assert not machines.log.exists()


_ASK = """
import os
import ray

ray.init(address="auto", namespace="left", log_to_driver=False, configure_logging=False)
nodes = [node for node in ray.nodes() if node["Alive"]]
print(sorted(node["Labels"]["toolshed-node"] for node in nodes))

class Left:
    def process(self):
        return os.getpid()

left = [
    ray.remote(Left).options(
        name=f"left {number}", lifetime="detached", num_cpus=0,
        label_selector={"toolshed-node": node["Labels"]["toolshed-node"]},
    ).remote()
    for number, node in enumerate(nodes)
]
print(*ray.get([each.process.remote() for each in left]))
"""


@pytest.mark.slow
def test_with_real_ray(machines: Machines) -> None:
    """Actors that the command leaves behind end with their nodes."""
    words = ("--hosts", "n1,n2", "--ip", _own_address(), "--python", sys.executable)
    code, said, complained = machines.run(*words, "--", sys.executable, "-c", _ASK)
    assert code == 0, complained
    names, processes = said.splitlines()
    assert names == "['n1', 'n2']" and len(processes.split()) == 2
    assert "did not say" not in complained
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in processes.split()))


def _own_address() -> str:
    """Ray replaces the loopback address by another one of this machine."""
    from toolshed.serving.cluster import prepare

    prepare()
    import ray

    return str(ray.util.get_node_ip_address())
