"""What every policy back-end is: text and tokens in, one completion out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rl.types import Completion, Question, SamplingParams
from toolshed.errors import ToolFailure
from toolshed.types import Message, ToolImage

if TYPE_CHECKING:
    from torch import Tensor


class PolicyFailure(ToolFailure):
    """The machinery behind a policy broke; its trajectory is neither trained nor scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A conversation that waits for the policy's next turn."""

    question: Question
    messages: tuple[Message, ...]
    images: tuple[ToolImage, ...]
    """In the order of their marks: the question's, then those that tools returned."""
    token_ids: tuple[int, ...] = ()
    """Compact ids of the conversation so far; empty for policies without tokens."""
    trajectory: str = ""
    """Identifies the trajectory across its turns, so that a policy may keep its cache."""
    turn: int = 0
    seed: int = 0


class Policy(Protocol):
    """Anything that can play: a model in this process, a server, a script, a remote teacher."""

    @property
    def version(self) -> int:
        """Of the weights that it samples with."""
        ...

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        """The next turn; PolicyFailure ends the trajectory as ``tool_failure``."""
        ...

    def release(self, trajectory: str) -> None:
        """Forget what was kept for a trajectory; unknown ones are ignored."""
        ...

    async def aclose(self) -> None: ...


class Weights(Protocol):
    """What a learner has to hand over; where it has several ranks, rank 0 asks."""

    source: Path
    """The checkpoint that it began with: config, tokenizer, processor and untrained weights."""

    @property
    def model(self) -> Any:
        """The live model, for a policy in this process; ranks may hold parts of it."""
        ...

    def trained(self) -> dict[str, Tensor]:
        """Trained tensors, whole, under their names in the live model."""
        ...

    def export(self, folder: Path) -> None:
        """Write all weights, adapters merged, as a Hugging Face folder."""
        ...


class LearningPolicy(Policy, Protocol):
    """A policy whose weights come from a learner of this run."""

    async def start(self) -> None:
        """Begin to serve; engines take minutes. ConfigError where they cannot be had."""
        ...

    async def update_weights(self, weights: Weights, version: int) -> None:
        """Take over ``weights``; what is sampled from here on names ``version``.

        PolicyFailure where nothing took them.
        """
        ...

    async def lend_memory(self) -> None:
        """Before an update of the learner: what is on its device sleeps until it gets weights."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Places that its cache says it holds; 0 where only their number limits trajectories."""
        ...

    @property
    def dtype(self) -> str:
        """Of the weights that it holds itself; empty where it samples with the learner's."""
        ...

    def figures(self) -> dict[str, float]:
        """What it did since they were last read, for a step's metrics."""
        ...
