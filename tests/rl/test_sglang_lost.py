"""Engines that die or hang: work goes on elsewhere, they come back, and nothing is left over."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.server import Server
from rl.policy.sglang.weights import update_from_folder
from rl.types import Completion, SamplingParams
from sft.render import Renderer
from tests.rl.engines import CONFIG, prompt_for, skip_without_engine

pytestmark = pytest.mark.slow
HOT = SamplingParams(temperature=8.0, max_tokens=600)


def group_of(server: Server) -> list[psutil.Process]:
    """All processes of an engine."""
    assert server._process is not None
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == server._process.pid:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def test_work_goes_on_when_one_engine_is_killed_and_another_hangs(
    tiny: Path, tmp_path: Path
) -> None:
    skip_without_engine()
    config = replace(CONFIG, servers=2, logs=str(tmp_path), health_every_s=2.0, patience_s=40.0)
    renderer = Renderer.load(tiny)
    policy = SglangPolicy(config, renderer, tiny, version=3)

    async def play() -> tuple[list[Completion], Completion]:
        await policy.start()
        killed, hung = policy.fleet.servers
        prompts = [prompt_for(renderer, f"t{i}") for i in range(6)]
        places = [(await policy.fleet.server_for(each.trajectory)).number for each in prompts]
        assert sorted(places) == [0, 0, 0, 1, 1, 1], "the least loaded first"
        again = [(await policy.fleet.server_for(each.trajectory)).number for each in prompts]
        assert again == places, "each keeps its own"
        await update_from_folder(policy.fleet, tiny, 4)
        turns = [asyncio.ensure_future(policy.generate(each, HOT)) for each in prompts]
        await asyncio.sleep(1.0)
        assert len(group_of(killed)) >= 3, "scheduler and detokeniser are in its group"
        os.killpg(killed._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        for process in group_of(hung):
            if process.pid != hung._process.pid:  # type: ignore[union-attr]
                process.suspend()
        said = await asyncio.gather(*turns)
        while len(policy.fleet.usable) < 2:
            await asyncio.sleep(0.5)
        late: Any = await policy.generate(prompt_for(renderer, "late"), replace(HOT, max_tokens=5))
        return said, late

    with asyncio.Runner() as runner:
        try:
            said, late = runner.run(play())
            for each in (*said, late):
                assert set(each.versions) == {4}, "restarted from the newest checkpoint"
                assert len(each.logprobs) == len(each.token_ids)
            assert policy.counts["resubmitted"] >= 3
            assert policy.fleet.num_restarts == 2
            left = [process for each in policy.fleet.servers for process in group_of(each)]
            assert len(left) >= 6
        finally:
            runner.run(policy.aclose())
        assert not psutil.wait_procs(left, timeout=5)[1], "its children went along"
