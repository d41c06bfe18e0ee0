"""Adapters alone to engines that hold the base: a folder for each version, loaded under its name.

Every request names the adapter that samples it, and an engine keeps prefixes of different adapters
apart. What runs during an update is aborted, and the policy lets it go on with the new adapter. The
one before stays until the next update, for requests that are on their way.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from rl.policy.base import Weights
from rl.policy.sglang.fleet import Adapter, Fleet
from rl.policy.sglang.names import check_complete, loader_name
from rl.policy.sglang.requests import Abort, LoadAdapter, UnloadAdapter
from rl.policy.sglang.server import Server
from rl.policy.sglang.weights import ask_each, held_tensors
from sft.config import LoraConfig
from toolshed.errors import ConfigError

_KEPT = 2
_SIDES = (".lora_A.default.weight", ".lora_B.default.weight")


class AdapterSync:
    """A ``Sync`` of what a learner with adapters trains; the base stays as engines loaded it."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        """``folder`` is this object's own: what another run left there is deleted."""
        self.fleet, self.folder = fleet, folder
        self.num_bytes = 0
        """Of the adapters that were sent last, once for all engines."""
        shutil.rmtree(folder, ignore_errors=True)
        self._kept: list[Adapter] = []
        """The newest last."""
        self._num_made = 0

    async def update(self, weights: Weights, version: int) -> None:
        """Let all engines load the adapters and go on with them.

        ConfigError where something else is trained or an engine would skip one; PolicyFailure where
        no engine took them.
        """
        # In threads, so that rollouts go on meanwhile.
        tensors = await asyncio.to_thread(weights.trained)
        fleet = self.fleet
        # A repeated update of a version has a name of its own, too: some engines know the first.
        self._num_made += 1
        name = f"version_{version:06d}_{self._num_made}"
        new = Adapter(name=name, folder=self.folder / name, version=version)
        await asyncio.to_thread(write_adapters, tensors, fleet.config.lora, new.folder)
        self.num_bytes = sum(each.nbytes for each in tensors.values())
        async with fleet.updating:
            fleet.num_updates += 1
            # First, so that an engine that starts meanwhile gets it.
            self._kept.append(new)

            async def load(server: Server) -> None:
                await self._check(tensors, server)
                await _load(server, new)

            await ask_each(fleet, load, fleet.usable)
            fleet.adapter, fleet.version = new, version
            await ask_each(fleet, lambda each: each.post(Abort(abort_all=True)), fleet.usable)
            while len(self._kept) > _KEPT:
                await self._drop(self._kept.pop(0))

    async def catch_up(self, server: Server) -> None:
        """Load what the other engines have; the base is what it began with."""
        for adapter in self._kept:
            await _load(server, adapter)

    async def aclose(self) -> None:
        """Forget the folders."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def _drop(self, old: Adapter) -> None:
        request = UnloadAdapter(lora_name=old.name)
        await ask_each(self.fleet, lambda each: each.post(request), self.fleet.usable)
        shutil.rmtree(old.folder, ignore_errors=True)

    async def _check(self, tensors: Mapping[str, Tensor], server: Server) -> None:
        """ConfigError where the engine has no matrix that an adapter would change."""
        held = {name.replace(".base_layer.", ".") for name in await held_tensors(server)}
        check_complete([loader_name(f"{_place(name)}.weight") for name in tensors], held)


def write_adapters(tensors: Mapping[str, Tensor], lora: LoraConfig, folder: Path) -> None:
    """Write trained tensors of a live model, all of them adapters, as PEFT reads them."""
    # Whole names: the tower has matrices whose last names are the same.
    places = sorted({_place(name) for name in tensors})
    settings = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": places,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    named = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(named, folder / "adapter_model.safetensors")


def _place(name: str) -> str:
    """The module that an adapter is on, by its name in the live model; ConfigError for others."""
    for side in _SIDES:
        if name.endswith(side):
            return name.removesuffix(side)
    raise ConfigError(
        f"{name} is trained and no adapter, and engine.sync=adapters sends adapters alone; give "
        "another engine.sync"
    )


async def _load(server: Server, adapter: Adapter) -> None:
    folder = str(adapter.folder.resolve())
    await server.post(LoadAdapter(lora_name=adapter.name, lora_path=folder))
    server.version = adapter.version
