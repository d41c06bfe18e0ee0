"""An API model as the one that is examined: what ``api:MODEL`` means to ``eval.run``."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.config import EvalConfig
from rl.policy.api_config import NO_KEY, PREFIX, ApiConfig, api_of, key_present
from sft.run_dir import naming
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from rl.policy.prices import ApiUsage, Prices
    from rl.rollout import Player
    from toolshed.shed import Toolshed
    from toolshed.toolset import ToolSet

USAGE_FILE = "api_usage.jsonl"
_PROMPT_TOKENS = 1300
"""A picture of a megapixel and a question, roughly; providers count differently."""


def with_model(subject: str, config: EvalConfig) -> EvalConfig:
    """The config with the model that ``api:MODEL`` names; unchanged for a checkpoint.

    ConfigError where the model cannot be reached as configured; nothing is sent.
    """
    return replace(config, api=api_of(subject, config.api))


def warn_schema(api: ApiConfig) -> None:
    """Say once what is known of the tools that the model was trained with: nothing."""
    print(
        f"warning: {PREFIX}{api.model} does not say which tool schema it was trained with; "
        "its schema is unknown and taken as it is",
        file=sys.stderr,
    )


def file_name(api: ApiConfig) -> str:
    """The model's name with nothing in it that a path could take for its own."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", api.model)


def plan_lines(config: EvalConfig, tools: ToolSet, num_episodes: int) -> list[str]:
    """What ``--check`` says of the model; the key itself is never shown."""
    from rl.policy.prices import prices_of

    api = config.api
    prices = prices_of(api.model, api.prices)
    told = "unknown; give api.prices=[input,cached,output]"
    if prices is not None:
        told = f"{prices.input:g} / {prices.cached:g} / {prices.output:g} USD per million tokens"
        told += " of input, cached input, output"
    key = "none is sent"
    if api.variable != NO_KEY:
        key = f"variable {api.variable}, {'set' if key_present(api) else 'NOT SET'}"
    limit = f"{api.cost_limit_usd:g} USD" if api.cost_limit_usd else "none"
    return [
        f"model       {api.model}",
        f"provider    {api.provider}, {api.address}",
        f"key         {key}",
        f"prices      {told}",
        f"cost limit  {limit}",
        f"cost        {_estimate(prices, config, tools, num_episodes)}",
        f"calls       {api.calls}",
    ]


def _estimate(prices: Prices | None, config: EvalConfig, tools: ToolSet, num_episodes: int) -> str:
    """What the missing episodes may cost, from one turn each to all turns that are allowed."""
    from rl.policy.estimate import episode_usd, text_tokens

    if prices is None:
        return "unknown"
    first = _PROMPT_TOKENS + text_tokens(tools.schema_text)
    turns = (1, config.max_turns if tools.specs else 1)
    costs = [num_episodes * episode_usd(prices, first, num_turns) for num_turns in turns]
    told = " to ".join(f"{cost:.3g}" for cost in dict.fromkeys(costs))
    return f"roughly {told} USD for {num_episodes} missing episodes, hidden reasoning besides"


def check_ready(config: EvalConfig, tools: ToolSet) -> None:
    """ConfigError where nothing could be asked: no key, or a limit of cost without prices."""
    from rl.policy.api import ApiPolicy

    ApiPolicy(config.api, tools.specs)


def player_of_api(config: EvalConfig, tools: ToolSet, shed: Toolshed | None) -> Player:
    """The model under a config's limits; of these ``max_tokens`` holds for each turn alone."""
    from eval.evaluate import limits_of
    from rl.policy.api import ApiPolicy
    from rl.rollout import Player

    policy = ApiPolicy(config.api, tools.specs, spent_usd=spent_before(Path(config.out)))
    return Player(policy=policy, renderer=None, shed=shed, limits=limits_of(config))


def spent_before(out: Path) -> float:
    """USD that earlier commands spent in a run's folder, at most; ConfigError where its account
    cannot be read."""
    path = out / USAGE_FILE
    if not path.is_file():
        return 0.0
    total = 0.0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            total += (entry["cost_usd"] or 0.0) + entry["most_lost_usd"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} line {number} is no account; mend or remove it") from error
    return total


def tell_usage(player: Player, out: Path) -> None:
    """Print what this command used, and add it to the folder's account of all commands."""
    from rl.policy.api import ApiPolicy

    assert isinstance(player.policy, ApiPolicy)
    usage = player.policy.usage
    print(usage.line())
    path = out / USAGE_FILE
    with naming(path), path.open("a") as file:
        file.write(json.dumps(_entry(player.policy.config, usage)) + "\n")


def _entry(api: ApiConfig, usage: ApiUsage) -> dict[str, object]:
    return {
        "model": api.model,
        "provider": api.provider,
        "requests": usage.requests,
        "retries": usage.retries,
        "refusals": usage.refusals,
        "input_tokens": usage.tokens.input,
        "cached_tokens": usage.tokens.cached,
        "cache_written_tokens": usage.tokens.cache_written,
        "output_tokens": usage.tokens.output,
        "cost_usd": usage.cost_usd,
        "lost": usage.lost,
        "most_lost_usd": usage.most_lost_usd,
    }
