"""Whether a sandbox keeps what it promises on this machine: tried for real, with code in it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import tempfile
from typing import Any

from toolshed.errors import ToolFailure
from toolshed.sandbox.levels import Finished, Job, Limits, Sandbox
from toolshed.sandbox.run import Reply, run_job

_MEMORY_BYTES = 192 << 20
_ATTEMPTS = """
import os, socket
found = []
try:
    open(path).read()
    found.append("reads")
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", port), 2)
    found.append("connects")
except OSError:
    pass
try:
    held = bytearray(most)
    found.append("hoards")
except MemoryError:
    pass
if "PATH" in os.environ:
    found.append("remembers")
result = [str(int(np.arange(4).sum())), *found]
"""
_PROMISES = {
    "reads": "a way to hide files: code in it could read one outside",
    "connects": "a way to cut the network: code in it could open a connection",
    "hoards": "a memory limit: code in it could go beyond one",
    "remembers": "a clean environment: code in it saw the caller's",
}


def probe(sandbox: Sandbox) -> str:
    """What is missing for this sandbox here; empty where it kept what its level promises."""
    with tempfile.NamedTemporaryFile("w", prefix="toolshed-probe-") as secret:
        secret.write("secret")
        secret.flush()
        with socket.create_server(("127.0.0.1", 0)) as server:
            variables: dict[str, Any] = {
                "path": secret.name,
                "port": server.getsockname()[1],
                "most": _MEMORY_BYTES + (64 << 20),
            }
            try:
                found = _ran(sandbox, Job(code=_ATTEMPTS, variables=variables))
            except ToolFailure as failure:
                return f"what its launcher lacked: {failure.text}"
    if found.kind != "list" or not found.result or found.result[0] != "6":
        told = (found.stderr.strip().splitlines() or [found.ended])[-1]
        return f"more than this machine gives: {told}"
    # Of the lowest level nothing is promised about files and network.
    forgiven = {"reads", "connects"} if sandbox.level == "rlimits" else set()
    broken = [word for word in found.result[1:] if word not in forgiven]
    return _PROMISES.get(str(broken[0]), "more than this machine gives") if broken else ""


def _ran(sandbox: Sandbox, job: Job) -> Finished:
    """Run a job from any place, also from inside a running loop."""
    import threading

    limits = dataclasses.replace(Limits(), memory_bytes=_MEMORY_BYTES, wall_s=15.0)
    found: list[Finished | ToolFailure] = []

    def work() -> None:
        try:
            found.append(asyncio.run(run_job(sandbox, job, no_tools, limits)))
        except ToolFailure as failure:
            found.append(failure)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (outcome,) = found
    if isinstance(outcome, ToolFailure):
        raise outcome
    return outcome


async def no_tools(name: str, arguments: dict[str, Any]) -> Reply:
    """Refuses every call that a program makes."""
    return {"status": "refused", "reason": "unknown_tool", "text": f"no tool {name}", "value": {}}
