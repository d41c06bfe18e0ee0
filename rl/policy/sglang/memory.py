"""An engine and a learner on one GPU: while one works, the other's memory is free."""

from __future__ import annotations

import logging

from rl.policy.base import PolicyFailure
from rl.policy.sglang.fleet import Fleet
from rl.policy.sglang.requests import Continue, Pause, ReleaseMemory, ResumeMemory
from rl.policy.sglang.server import Server
from rl.policy.sglang.weights import ask_each

log = logging.getLogger(__name__)


class Memory:
    """That of all engines; between ``lend`` and ``take_back`` they answer nobody."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._lent: list[tuple[Server, int]] = []
        """(engine, start): one that was started again has its memory."""
        self._is_lent = False

    async def lend(self) -> None:
        """Retract what runs and release weights and cache; an engine that cannot is quarantined.

        Nobody asks whether engines are well until ``take_back``, and none rejoins.
        """
        if self._is_lent:
            return
        await self.fleet.updating.acquire()
        self._is_lent = True
        self.fleet.num_updates += 1

        async def release(server: Server) -> None:
            await server.post(Pause(mode="retract"))
            await server.post(ReleaseMemory())

        try:
            await ask_each(self.fleet, release, self.fleet.usable)
        except PolicyFailure as failure:
            # The learner needs none of them; the next weights wait until one is back.
            log.warning("no engine gave its memory away: %s", failure)
        self._lent = [(each, each.num_starts) for each in self.fleet.usable]

    async def take_back(self) -> None:
        """Weights as they were, an empty cache, and on with what was retracted."""
        if not self._is_lent:
            return
        import torch

        if torch.cuda.is_available():
            # What the learner has freed is the engine's only once the device has it.
            torch.cuda.empty_cache()

        async def resume(server: Server) -> None:
            await server.post(ResumeMemory())
            await server.post(Continue())

        asleep = [server for server, start in self._lent if server.num_starts == start]
        try:
            await ask_each(self.fleet, resume, [each for each in asleep if each.is_alive()])
        except PolicyFailure as failure:
            log.warning("no engine took its memory back: %s", failure)
        finally:
            self._lent, self._is_lent = [], False
            self.fleet.updating.release()
