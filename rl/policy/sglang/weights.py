"""New weights for engines at work: pause, update, go on, with every answer checked.

Running requests are retracted, not aborted: they go on with the new weights, and each of their
tokens keeps the version that sampled it. Trajectories that wait for tools notice nothing. An engine
that an update failed on may hold half of it and is quarantined.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from rl.policy.base import PolicyFailure
from rl.policy.sglang.fleet import Checkpoint, Fleet
from rl.policy.sglang.names import check_complete
from rl.policy.sglang.requests import Checksums, Continue, LoadFolder, Pause
from rl.policy.sglang.server import EngineLost, Server
from toolshed.errors import ConfigError


async def update_from_folder(fleet: Fleet, folder: Path, version: int) -> None:
    """Let all engines load a checkpoint folder, which engines that are lost will start from, too.

    PolicyFailure where none of them took it.
    """
    request = LoadFolder(model_path=str(folder.resolve()), weight_version=str(version))
    async with paused(fleet):
        # First, so that an engine that starts meanwhile begins with it or catches up.
        fleet.checkpoint = Checkpoint(folder=folder, version=version)

        async def load(server: Server) -> None:
            await server.post(request)
            server.version = version

        await ask_each(fleet, load, fleet.usable)
    fleet.version = version


async def held_tensors(server: Server) -> dict[str, str]:
    """By name of each tensor of an engine, its hash; of the first rank where there are several."""
    told = await server.post(Checksums())
    found: dict[str, str] = told["ranks"][0]["checksums"]
    return found


class Completeness:
    """Whether engines would take every tensor; each of them is asked once after its start."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: dict[tuple[int, int], frozenset[str]] = {}
        """By (number, start) of an engine, the names of its tensors."""

    async def check(self, tensors: Mapping[str, Tensor], servers: Sequence[Server]) -> None:
        """ConfigError where an engine would skip a tensor (by loader's name), or keeps features of
        pictures that a trained tower makes stale."""
        config = self._fleet.config
        if any(name.startswith("visual.") for name in tensors) and not config.trains_vision:
            raise ConfigError(
                "the vision tower is trained and engines keep its features between requests; "
                "give engine.trains_vision=true"
            )

        async def ask(server: Server) -> None:
            place = server.number, server.num_starts
            if place not in self._known:
                self._known[place] = frozenset(await held_tensors(server))
            check_complete(tensors, self._known[place])

        await ask_each(self._fleet, ask, servers)


@contextlib.asynccontextmanager
async def paused(fleet: Fleet) -> AsyncIterator[None]:
    """Nothing is decoded inside; what ran goes on afterwards. No engine rejoins meanwhile."""
    async with fleet.updating:
        fleet.num_updates += 1
        await ask_each(fleet, lambda server: server.post(Pause(mode="retract")), fleet.usable)
        try:
            yield
        finally:
            if fleet.usable:
                await ask_each(fleet, lambda server: server.post(Continue()), fleet.usable)


async def ask_each(
    fleet: Fleet, ask: Callable[[Server], Awaitable[object]], servers: Sequence[Server]
) -> None:
    """Ask each of these engines; one that fails is quarantined. PolicyFailure where all fail."""
    answers = await asyncio.gather(*(ask(each) for each in servers), return_exceptions=True)
    failed = []
    for server, answer in zip(servers, answers, strict=True):
        if isinstance(answer, PolicyFailure | EngineLost):
            failed.append(answer)
            fleet.quarantine(server, f"its weights could not be updated: {answer}")
        elif isinstance(answer, BaseException):
            raise answer
    if len(failed) == len(servers):
        raise PolicyFailure(
            "engine_weights", f"no engine took the new weights: {failed[:1] or 'none is there'}"
        )
