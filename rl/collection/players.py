"""Who plays a collection: the scripted teacher, a checkpoint, engines, a model behind an API."""

from __future__ import annotations

from rl.collection.journal import Journal, folder_of
from rl.collection.prepare import Collection, engines_of
from rl.player import load_player
from rl.policy.scripted import ScriptedPolicy
from rl.rollout import Limits, Player
from rl.tabletop.teacher import teach
from toolshed.shed import Toolshed


async def player_of(collection: Collection, journal: Journal, shed: Toolshed | None) -> Player:
    """Ready for rollouts under the collection's limits; its policy is the caller's to close."""
    config = collection.config
    limits = Limits(max_turns=config.max_turns, max_tokens=config.max_tokens)
    if config.api.model:
        from rl.policy.api import ApiPolicy

        replies = journal.open_replies()
        spent_usd = replies.spent_usd(collection.prices) if replies is not None else 0.0
        policy = ApiPolicy(config.api, collection.tools.specs, spent_usd=spent_usd, replies=replies)
        return Player(policy=policy, renderer=None, shed=shed, limits=limits)
    if collection.folder is None:
        return Player(policy=ScriptedPolicy(teach), renderer=None, shed=shed, limits=limits)
    if config.policy == "sglang":
        from rl.policy.sglang.alone import start_alone

        working = collection.working or folder_of(collection.out)
        return await start_alone(engines_of(config, working), collection.folder, shed, limits)
    return load_player(
        collection.folder,
        shed,
        limits=limits,
        width=config.width,
        max_length=config.max_length,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
    )
