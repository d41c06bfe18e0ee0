"""Raw replies of a model behind an API, in a file that only grows: nothing is paid for twice.

One line per request that ended, however it ended. The same trajectory asked the same request again,
after a kill for example, is answered from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rl.lines import JsonLines
from rl.policy.prices import Prices, TokenUsage
from toolshed.errors import ConfigError
from toolshed.types import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What one request cost."""

    usage: TokenUsage | None = None
    """None where nothing was billed, or nobody says how much."""
    lost_usd: float | None = None
    """At most so much, where it may have been billed and nobody says how much."""
    is_answer: bool = False
    """Whether the reply was a turn."""


_BILL = TypeAdapter(Bill)


def digest_of(body: Mapping[str, Json]) -> str:
    """Of a request: the model, the whole conversation with its pictures, the seed."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Replies:
    """Open for one process at a time."""

    def __init__(self, path: Path) -> None:
        """ConfigError where another process has the file, or a line is none of ours."""
        self.tokens = TokenUsage()
        """Of all requests, those of earlier commands included."""
        self.num_requests = 0
        """Answered ones."""
        self.num_lost = 0
        """Requests that may have been billed and told nothing."""
        self.lost_usd = 0.0
        """At most so much for these."""
        self._by_trajectory: defaultdict[str, TokenUsage] = defaultdict(TokenUsage)
        self._answers: defaultdict[str, dict[str, Json]] = defaultdict(dict)
        self._lines = JsonLines(path)
        for line in self._lines.read():
            try:
                trajectory, digest = str(line["trajectory"]), str(line["digest"])
                bill = _BILL.validate_python(line["bill"])
                self._count(trajectory, digest, bill, line["reply"])
            except (KeyError, ValidationError) as error:
                raise ConfigError(
                    f"{path} holds a line that is no reply ({type(error).__name__}); move the "
                    "file away"
                ) from error

    def answer(self, trajectory: str, digest: str) -> Json:
        """The reply to an equal request of a trajectory that goes on; None where there is none."""
        return self._answers.get(trajectory, {}).get(digest)

    def usage_of(self, trajectory: str) -> TokenUsage:
        """What a trajectory has used, over all commands."""
        return self._by_trajectory[trajectory]

    def spent_usd(self, prices: Prices | None) -> float:
        """At most, over all commands; 0 where the prices are unknown."""
        return 0.0 if prices is None else prices.cost_usd(self.tokens) + self.lost_usd

    def append(self, content: Mapping[str, Json], digest: str, bill: Bill) -> None:
        """Keep a request that ended; ``content`` holds ``trajectory`` and ``reply``."""
        self._lines.append({**content, "digest": digest, "bill": asdict(bill)})
        self._count(str(content["trajectory"]), digest, bill, content["reply"])

    def forget(self, trajectory: str) -> None:
        """A trajectory is over: its replies stay in the file and leave the memory."""
        self._answers.pop(trajectory, None)

    def close(self) -> None:
        self._lines.close()

    def _count(self, trajectory: str, digest: str, bill: Bill, reply: Json) -> None:
        if bill.usage is not None:
            self.tokens += bill.usage
            self._by_trajectory[trajectory] += bill.usage
        if bill.lost_usd is not None:
            self.num_lost += 1
            self.lost_usd += bill.lost_usd
        if bill.is_answer:
            self.num_requests += 1
            self._answers[trajectory][digest] = reply
