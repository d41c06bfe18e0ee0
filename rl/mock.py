"""The whole training loop with a scripted engine and paced tools, on a CPU.

``python -m rl.mock CONFIG [key=value ...]`` runs ``rl.train`` as CONFIG says it, but that the
scripted teacher plays in place of the model, now and then giving a wrong answer, and that every
tool call takes as long as a trace says on as many replicas as ``mock`` says. Tools really answer,
groups are really scheduled, and the learner really trains (on words it did not choose, so its
weights are good for nothing): what is seen is whether a run's parts fit, and who waits for whom.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rl.config import RLConfig
from rl.policy.base import LearningPolicy, Prompt, Weights
from rl.policy.paced import PacedWriter
from rl.ranks import follow, is_follower
from rl.seeds import seed_of
from rl.start.needs import check_answerable
from rl.start.plan import prepare
from rl.tabletop import wording
from rl.tabletop.teacher import teach
from rl.train import train
from rl.types import Question
from sft.config import check_not_negative, check_positive, help_text, load_config
from sft.render import Renderer
from toolshed.backend import Request
from toolshed.caching import RememberingHost
from toolshed.call_log import read_calls
from toolshed.command import run_command
from toolshed.config import load_tools
from toolshed.errors import ConfigError
from toolshed.hosting import LocalHost, served_families
from toolshed.pacing import PacedHost
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet

WRONG = "<answer>none</answer>"


@dataclass
class PaceConfig:
    """How fast everything is that is not there."""

    token_s: float = 0.055
    """Seconds of one sampled token, for each trajectory whatever the load."""
    trace: str = ""
    """Call log of tools (``call_log`` of a tool YAML): the n-th call of a tool takes as long as the
    n-th there, from the beginning again after the last; empty for log-normal times."""
    tool_s: float = 1.0
    """Their mean in seconds ..."""
    tool_sigma: float = 0.8
    """... and the deviation of their logarithm."""
    replicas: int = 4
    """Of each tool family, one call at a time each."""
    wrong: float = 0.4
    """Share of the trajectories that answer wrongly, without a tool."""
    speed: float = 100.0
    """How many of these seconds pass in one."""

    def __post_init__(self) -> None:
        check_positive(self, "replicas", "speed")
        check_not_negative(self, "token_s", "tool_s", "tool_sigma", "wrong")
        if self.wrong > 1:
            raise ConfigError(f"mock.wrong={self.wrong} is a share, from 0 to 1")


@dataclass
class MockConfig(RLConfig):
    """A run with a scripted engine and paced tools."""

    mock: PaceConfig = field(default_factory=PaceConfig)


def mock(config: MockConfig) -> Path:
    """Train to the end; returns the folder of the final checkpoint."""
    plan = prepare(config)
    every = [*plan.val_questions, *(each for part in plan.questions for each in part)]
    _check_taught(every, plan.tools, config.tools.config)

    def engine(config: RLConfig, weights: Weights, renderer: Renderer) -> LearningPolicy:
        return PacedWriter(script, renderer, token_s=pace.token_s / pace.speed)

    def script(prompt: Prompt) -> str:
        chance = np.random.default_rng(seed_of("mock", prompt.seed)).random()
        return WRONG if chance < pace.wrong else teach(prompt)

    pace = config.mock
    if config.tools.config == "none":
        return train(config, engine=engine)
    tools = _paced(config, plan.tools)
    with _shed(config, plan.tools, tools) as shed:
        final = train(config, shed, engine=engine)
    for family, seconds in tools.busy_s.items():
        print(f"{family}: {pace.replicas} replicas were busy for {seconds * pace.speed:.0f} s")
    return final


def _check_taught(questions: Sequence[Question], tools: ToolSet, config: str) -> None:
    for question in questions:
        told = [message.text for message in question.messages if message.role == "user"]
        if not told or wording.asked(told[0]) is None:
            raise ConfigError(
                f"question {question.id} ({question.source}): the script knows the tabletop "
                "questions only; make some with python -m rl.tabletop"
            )
    check_answerable([question.source for question in questions], tools, config, taught=True)


def _paced(config: MockConfig, tools: ToolSet) -> PacedHost:
    served = served_families(load_tools(config.tools.config), tools)
    seconds = _service_s(config, tools)
    return PacedHost(
        LocalHost(served),
        replicas=dict.fromkeys((each.name for each in served), config.mock.replicas),
        service_s=lambda request: seconds(request) / config.mock.speed,
    )


def _shed(config: MockConfig, tools: ToolSet, host: PacedHost) -> Toolshed:
    loaded = load_tools(config.tools.config)
    families = served_families(loaded, tools)
    remembered = [each.name for each in families if each.config.cache and each.idempotent]
    return Toolshed(loaded, tools, RememberingHost(host, remembered))


def _service_s(config: MockConfig, tools: ToolSet) -> Callable[[Request], float]:
    """Seconds of each call that is run; calls of a tool are counted as they come."""
    pace, num_calls = config.mock, Counter[str]()
    recorded = read_trace(pace.trace, [spec.name for spec in tools.specs]) if pace.trace else {}

    def service_s(request: Request) -> float:
        number = num_calls[request.name]
        num_calls[request.name] += 1
        if recorded:
            times = recorded[request.name]
            return times[number % len(times)]
        rng = np.random.default_rng(seed_of(config.seed, "service", request.name, number))
        return pace.tool_s * math.exp(rng.normal(-(pace.tool_sigma**2) / 2, pace.tool_sigma))

    return service_s


def read_trace(path: str, tools: Sequence[str]) -> dict[str, list[float]]:
    """For each of ``tools`` the seconds that its answered calls ran, in the order of a call log;
    ConfigError where there is no such log, or none of a tool."""
    if not Path(path).is_file():
        raise ConfigError(f"mock.trace={path} is no file; give a log that call_log of tools wrote")
    found: dict[str, list[float]] = {name: [] for name in tools}
    for line in read_calls(path):
        name, run_ms = line.get("tool"), line.get("run_ms")
        if line.get("status") == "ok" and name in found and isinstance(run_ms, int | float):
            found[str(name)].append(run_ms / 1e3)
    lacking = [name for name, times in found.items() if not times]
    if lacking:
        raise ConfigError(
            f"mock.trace={path} holds no answered call of {', '.join(lacking)}; record some, or "
            "leave these out with tools.show"
        )
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.mock",
        description="The whole training loop with a scripted engine and paced tools.",
        epilog="keys and defaults:\n" + help_text(MockConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="name in configs/rl (for example demo) or a YAML file")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help="overrides")
    args = parser.parse_args(words)

    def run() -> int:
        config = load_config(MockConfig, "rl", args.config, args.words)
        if is_follower():
            return follow(config)
        print(mock(config))
        return 0

    return run_command(run, "toolshed", "sft", "rl")


if __name__ == "__main__":
    sys.exit(main())
