"""Rollouts over the provider's server of the tests, and what it says."""

from __future__ import annotations

import asyncio
from typing import Any

from rl.policy.api import ApiPolicy
from rl.policy.api_config import ApiConfig
from rl.rollout import Job, Player, run_rollouts
from rl.types import SamplingParams, Trajectory
from tests.rl.camera_tools import camera_shed
from tests.rl.provider_server import Provider, Says
from tests.rl.reader import question

PROVIDERS = ("openai", "anthropic")
ANSWER = Says(text="<answer>red cube</answer>")
LEFT, POINTS = ("camera__left", '{"image_index": 0}'), ("camera__points", '{"num":2}')


def config(server: Provider, name: str = "openai", **changes: Any) -> ApiConfig:
    words: dict[str, Any] = {"backoff_s": 0.01, "retries": 2, "timeout_s": 10.0, **changes}
    return ApiConfig(
        model="toy", provider=name, base_url=server.url, key_variable="TEST_KEY", **words
    )


def play(
    settings: ApiConfig, *, tools: bool = True, num: int = 1, temperature: float = 0.0
) -> tuple[list[Trajectory], ApiPolicy]:
    """The same question ``num`` times, all at once."""
    shed = camera_shed() if tools else None
    policy = ApiPolicy(settings, shed.specs if shed is not None else ())
    player = Player(policy=policy, renderer=None, shed=shed)
    sampling = SamplingParams(temperature=temperature, max_tokens=50)
    jobs = [Job(question=question(), sampling=sampling, seed=i) for i in range(num)]

    async def all_of_them() -> list[Trajectory]:
        try:
            found = [pair async for pair in run_rollouts(jobs, player, width=num)]
            return [trajectory for _, trajectory in sorted(found, key=lambda pair: pair[0])]
        finally:
            await policy.aclose()

    return asyncio.run(all_of_them()), policy
