"""Weights by handles of shared memory, and an engine that gives its memory away for a while.

The real engine, on a CPU: memory is shared by name there, and giving it away frees nothing. What a
GPU does instead, CUDA IPC and the memory saver, is not run here.
"""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest
from torch.multiprocessing import reductions

from rl.config import RLConfig
from rl.policy.sglang import ipc
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.ipc import IpcSync
from rl.policy.sglang.memory import Memory
from rl.policy.sglang.names import for_loader
from rl.policy.sglang.server import arguments
from rl.types import SamplingParams
from tests.rl.engine_checks import check_held
from tests.rl.engines import Engines, Held, prompt_for
from toolshed.errors import ConfigError


def test_the_device_of_a_handle_stands_where_torch_has_it() -> None:
    words = list(inspect.signature(reductions.rebuild_cuda_tensor).parameters)
    assert words[ipc._DEVICE] == "storage_device"


def test_a_colocated_engine_keeps_a_copy_of_its_weights_and_works_in_turns() -> None:
    config = EngineConfig(device="cuda", colocated=True)
    assert config.way == "ipc"
    words = arguments(config, Path("checkpoint"), 0)
    assert {"--enable-memory-saver", "--enable-weights-cpu-backup"} <= set(words)
    with pytest.raises(ConfigError, match="give max_staleness=0"):
        RLConfig(policy="sglang", device="cuda", max_staleness=1, engine=config)
    with pytest.raises(ConfigError, match=r"give engine\.device=cuda"):
        EngineConfig(device="cpu", colocated=True)
    with pytest.raises(ConfigError, match="one engine on one GPU"):
        EngineConfig(device="cuda", servers=2, colocated=True)
    with pytest.raises(ConfigError, match=r"give engine\.colocated=true"):
        EngineConfig(device="cuda", sync="ipc")


@pytest.mark.slow
def test_weights_arrive_by_handles_while_requests_run(engines: Engines) -> None:
    policy = engines.begin()
    before = policy.version
    held = Held(engines.second)
    own = {name: tensor.data_ptr() for name, tensor in held.trained().items()}
    sync = IpcSync(policy.fleet, bucket_bytes=1 << 20)
    hot = SamplingParams(temperature=8.0, max_tokens=400)

    async def play() -> list[Any]:
        prompts = [prompt_for(engines.renderer, f"ipc{i}") for i in range(8)]
        turns = [asyncio.ensure_future(policy.generate(each, hot)) for each in prompts]
        await asyncio.sleep(0.6)
        await sync.update(held, before + 1)
        return await asyncio.gather(*turns)

    said = engines.run(play())
    assert sum(set(each.versions) == {before, before + 1} for each in said) >= 3
    assert engines.run(check_held(policy, for_loader(held.trained()))) > 20
    assert sync.num_bytes == sum(each.nbytes for each in held.trained().values())
    assert own == {name: tensor.data_ptr() for name, tensor in held.trained().items()}


@pytest.mark.slow
def test_what_ran_when_the_engine_fell_asleep_goes_on_when_it_wakes(engines: Engines) -> None:
    policy = engines.begin()
    memory = Memory(policy.fleet)
    hot = SamplingParams(temperature=8.0, max_tokens=300)

    async def play() -> list[Any]:
        prompts = [prompt_for(engines.renderer, f"sleep{i}") for i in range(4)]
        turns = [asyncio.ensure_future(policy.generate(each, hot)) for each in prompts]
        await asyncio.sleep(0.6)
        await memory.lend()
        await memory.lend()
        done = sum(turn.done() for turn in turns)
        await asyncio.sleep(1.0)
        assert sum(turn.done() for turn in turns) == done < 4, "nobody is answered meanwhile"
        await memory.take_back()
        await memory.take_back()
        return await asyncio.gather(*turns)

    for each in engines.run(play()):
        assert len(each.token_ids) == len(each.logprobs) > 0
    assert policy.fleet.num_restarts == 0
    assert not policy.fleet.updating.locked()
