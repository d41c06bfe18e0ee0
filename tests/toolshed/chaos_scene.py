"""The stage of the chaos suite: a shed under Ray, its processes, and what its tools executed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.toolshed.chaos_tools import HERE
from tests.toolshed.fake_tools import picture
from tests.toolshed.threads import until
from toolshed.serving.control import NAME
from toolshed.serving.registry import SeatReport
from toolshed.serving.remote import status
from toolshed.serving.router import RayHost
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import IndexedValue, Json, ToolCall, ToolResult

RUN_TIMEOUT_S = 2.0


def family(folder: Path, word: str, **settings: Json) -> dict[str, Json]:
    back_end: Json = f"{HERE}:{word}"
    return {
        "backend": back_end,
        "arguments": {"folder": str(folder)},
        "timeout_s": 60.0,
        "run_timeout_s": RUN_TIMEOUT_S,
        "restarts": 50,
        "cache": False,
        **settings,
    }


class Scene:
    """An opened shed, and what its tools executed since the test began."""

    def __init__(self, shed: Toolshed, folder: Path, address: str) -> None:
        self.shed, self.folder, self._address = shed, folder, address
        (folder / "runs").write_text("")
        (folder / "slow").unlink(missing_ok=True)

    @property
    def service(self) -> Any:
        host: Any = self.shed._host
        assert isinstance(host._host, RayHost)
        return host._host.service

    @property
    def control(self) -> Any:
        import ray

        return ray.get_actor(NAME, namespace=self.service.namespace)

    def seats(self, group: str) -> list[SeatReport]:
        return status(self._address, self.service.namespace).of_group(group)

    def processes(self, group: str, num: int = 2, *, without: int = 0) -> list[int]:
        """Process ids of a group's replicas, as soon as so many are ready and one has gone."""
        found: list[int] = []

        def are_ready() -> bool:
            seats = self.seats(group)
            found[:] = [each.health.process_id for each in seats if each.health is not None]
            ready = [each.state == "ready" for each in seats]
            return all(ready) and len(set(found) - {without}) == len(seats) == num

        until(are_ready)
        return found

    def executed(self) -> Counter[str]:
        """How often each call was executed, by ``what which``."""
        lines = (self.folder / "runs").read_text().splitlines()
        return Counter(each.rpartition(" ")[0] for each in lines)

    def processes_of(self, line: str) -> list[int]:
        """Where a call was executed, in order."""
        runs = (self.folder / "runs").read_text().splitlines()
        return [int(each.split()[-1]) for each in runs if each.rpartition(" ")[0] == line]

    def runs_in(self, process: int) -> list[str]:
        lines = (self.folder / "runs").read_text().splitlines()
        return [each for each in lines if each.endswith(f" {process}")]

    def ask(self, *calls: ToolCall, during: Callable[[], None] | None = None) -> list[ToolResult]:
        return ask(self.shed.session([picture()]), *calls, during=during)


def call(name: str, **arguments: Json) -> ToolCall:
    return ToolCall(id=str(arguments.get("which", "")), name=name, arguments=arguments)


def work(name: str, which: int, seconds: float) -> ToolCall:
    return call(f"{name}.work", which=which, seconds=seconds)


def ask(
    session: Session, *calls: ToolCall, during: Callable[[], None] | None = None
) -> list[ToolResult]:
    """The outcomes, one per call in order; ``during`` happens while they are under way."""

    async def together() -> list[ToolResult]:
        made = [asyncio.create_task(session.call(each)) for each in calls]
        if during is not None:
            await asyncio.to_thread(during)
        return list(await asyncio.wait_for(asyncio.gather(*made), 120))

    results = asyncio.run(together())
    assert [each.call_id for each in results] == [each.id for each in calls]
    return results


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def process_of(result: ToolResult) -> int:
    assert result.status == "ok", result
    assert isinstance(result.value, IndexedValue) and isinstance(result.value.value, float)
    return int(result.value.value)


def outcomes(results: list[ToolResult]) -> Counter[str]:
    return Counter(each.reason or each.status for each in results)


def server(folder: Path, address: str, namespace: str, **settings: Json) -> subprocess.Popen[bytes]:
    path = folder / "tools.yaml"
    path.write_text(yaml.safe_dump({"chaos": family(folder, "Chaos"), **settings}))
    announced = folder / "address.json"
    command = [sys.executable, "-m", "toolshed.serve", str(path), "--namespace", namespace]
    command += ["--ray-address", address, "--address-file", str(announced)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(announced.exists)
    return started


def num_stored_objects() -> int:
    """Objects in the store of this machine."""
    import ray
    from ray._private import internal_api

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(internal_api.get_memory_info_reply(state).store_stats.num_local_objects)
