"""A tool that breaks on demand, and a subject that calls it: faults for ``eval.run`` itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval.config import EvalConfig
from eval.evaluate import limits_of
from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.rollout import Player
from rl.types import Question
from toolshed.shed import Toolshed
from toolshed.tool import Family, tool
from toolshed.toolset import ToolSet
from toolshed.types import TextReply

HERE = "tests.eval.faulty_tools:Faulty"
ANSWER = "<answer>[(0.5, 0.5)]</answer>"
FINE = "a table with things on it"


class Faulty(Family):
    """Says ``text`` to the first ``times`` calls about ``what``, and something sensible to others.

    ``folder`` keeps a line for each call.
    """

    name: ClassVar[str] = "faulty"

    def __init__(
        self, *, folder: str, text: str, times: int = 1000, what: str = "", hang_s: float = 0.0
    ) -> None:
        self._calls = Path(folder) / "calls"
        self._text, self._times, self._what, self._hang_s = text, times, what, hang_s

    @tool
    def look(self, what: str) -> TextReply:
        """Look at something.

        Args:
            what: What to look at.
        """
        told = self._calls.read_text().splitlines() if self._calls.exists() else []
        with self._calls.open("a") as file:
            file.write(f"{what}\n")
        meant = not self._what or self._what in what
        if not meant or sum(self._what in line for line in told) >= self._times:
            return TextReply(text=FINE)
        time.sleep(self._hang_s)
        return TextReply(text=self._text)


def tools_file(folder: Path, *, host: str = "local", **arguments: object) -> Path:
    """A tool YAML with the faulty family; ``arguments`` are its constructor's, or keys of it."""
    keys: dict[str, object] = {
        name: arguments.pop(name) for name in ("timeout_s", "run_timeout_s") if name in arguments
    }
    own: dict[str, object] = {"folder": str(folder), **arguments}
    family: dict[str, object] = {"backend": HERE, "cache": False, "arguments": own, **keys}
    path = folder / "tools.yaml"
    path.write_text(json.dumps({"host": host, "faulty": family}))
    return path


def looking(prompt: Prompt) -> str:
    """One call about the question, then an answer."""
    if prompt.turn:
        return ANSWER
    call = {"name": "faulty.look", "arguments": {"what": prompt.question.id}}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A subject that a function plays."""

    script: Callable[[Prompt], str] = looking
    name: str = "scripted"
    run: str = "scripted"

    def policy(self) -> str:
        return "scripted"

    def plan_lines(self, config: EvalConfig, tools: ToolSet, num_episodes: int) -> list[str]:
        return ["scripted"]

    def missing(self, config: EvalConfig) -> list[str]:
        return []

    def check(self, questions: Sequence[Question], config: EvalConfig, tools: ToolSet) -> None:
        """Anything can be asked."""

    async def player(self, config: EvalConfig, tools: ToolSet, shed: Toolshed | None) -> Player:
        policy = ScriptedPolicy(self.script)
        return Player(policy=policy, renderer=None, shed=shed, limits=limits_of(config))

    def close(self, player: Player, out: Path) -> None:
        """Nothing was used."""
