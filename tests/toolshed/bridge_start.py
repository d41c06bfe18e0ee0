"""Test-only: the bridge to the probing back-end, in any environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from toolshed.environments.bridge import Bridged
from toolshed.environments.environment import Environment, find
from toolshed.types import TextReply

HERE = Path(__file__).resolve().parent
METHODS = ("echo", "pid", "environment", "write", "unsendable", "misbehave")


def variables_of(environment: Environment) -> dict[str, str]:
    """The environment's, with this folder on the path for the back-ends of tests."""
    found = environment.variables()
    paths = [str(HERE), found.get("PYTHONPATH", "")]
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def probing(
    environment: Environment | None = None,
    *,
    trouble: str = "",
    timeout_s: float = 20.0,
    start_timeout_s: float = 30.0,
    memory_gb: float | None = None,
) -> Bridged:
    environment = environment or find(sys.executable)
    return Bridged(
        interpreter=str(environment.python),
        location="bridge_tools:Probing",
        arguments={"trouble": trouble},
        methods=METHODS,
        variables=variables_of(environment),
        timeout_s=timeout_s,
        start_timeout_s=start_timeout_s,
        memory_gb=memory_gb,
    )


def pid_of(tools: Bridged) -> int:
    """Process number of the child."""
    reply = tools.pid()
    assert isinstance(reply, TextReply)
    return int(reply.text)
