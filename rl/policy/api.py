"""A policy behind somebody's API: one turn is one request, and what it cost is known.

Its trajectories have no tokens and are never trained as such; as text they are like any other.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rl.policy.anthropic_api import Messages
from rl.policy.api_config import ApiConfig, check_api, read_key
from rl.policy.base import Prompt
from rl.policy.native_turns import NativeTools, native_turns
from rl.policy.openai_api import ChatCompletions
from rl.policy.prices import ApiUsage, Ledger, TokenUsage, prices_of
from rl.policy.provider import Ask, Dialect, Told
from rl.policy.replies import Bill, Replies, digest_of
from rl.policy.sending import Accounts, Attempt, Declined, Sender
from rl.types import Completion, SamplingParams
from sft.run_dir import write_atomic
from toolshed.types import Json, ToolSpec

log = logging.getLogger(__name__)

MOST_PICTURE_TOKENS = 6_000
"""More than any provider counts for one picture."""
_OWN_WORDS = 1_000
"""Tokens of what providers add themselves, where there are tools for example."""
_LONGEST_SHOWN = 200
_UNKNOWN_FIELD = re.compile(
    r"support|deprecated|recogni[sz]ed|unknown|unexpected|extra |permitted|may only", re.IGNORECASE
)
"""How servers say that a model does not take a field, not that a value is too large."""


class ApiPolicy:
    """Plays by requests to one model; ``version`` stays 0. Used within one event loop."""

    def __init__(
        self,
        config: ApiConfig,
        specs: Sequence[ToolSpec],
        *,
        spent_usd: float = 0.0,
        replies: Replies | None = None,
    ) -> None:
        """``specs`` are the tools of the rollouts, in their order; ``spent_usd`` were spent before
        and count against the limit of cost. Every reply goes into ``replies``, and what is answered
        there is not asked again.

        ConfigError where the config is wrong, the key is not set, or a limit of cost is set on a
        model whose prices are unknown. Sends nothing.
        """
        check_api(config)
        self.version = 0
        self.config = config
        self._dialect: Dialect = Messages() if config.provider == "anthropic" else ChatCompletions()
        self._tools = NativeTools(specs if config.calls == "native" else ())
        key = read_key(config)
        self._sender = Sender(config, self._dialect.path, self._dialect.headers(key), key)
        prices = prices_of(config.model, config.prices)
        self._ledger = Ledger(config.model, prices, config.cost_limit_usd, spent_usd)
        self._replies = replies
        self._left_out: set[str] = set()
        self._kept: dict[str, dict[int, Json]] = {}
        """By trajectory and the place of a turn in it: what the provider wants back with it."""

    @property
    def usage(self) -> ApiUsage:
        """What was used so far."""
        return self._ledger.usage

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        """Ask for the next turn.

        Raises PolicyFailure once retries are spent, ConfigError for what the user has to mend, and
        CostLimitReached (a ConfigError) where the request might exceed the limit.
        """
        turns = tuple(native_turns(prompt.messages, prompt.images, self._tools))
        kept = self._kept.get(prompt.trajectory, {})
        while True:
            ask = Ask(
                model=self.config.model,
                turns=turns,
                tools=self._tools,
                sampling=sampling,
                seed=prompt.seed,
                image_format="jpeg" if self.config.image_format == "jpeg" else "png",
                left_out=frozenset(self._left_out),
                kept=kept,
            )
            body = self._dialect.body(ask)
            try:
                told = self._answered(body, prompt)
                if told is None:
                    told = await self._asked(body, prompt, sampling)
                break
            except Declined as declined:
                self._leave_out(declined, body)
        if told.kept is not None:
            self._kept.setdefault(prompt.trajectory, {})[len(prompt.messages)] = told.kept
        if told.finish == "refusal":
            self._ledger.num_refusals += 1
        return Completion(text=told.text, finish=told.finish, version=self.version)

    def release(self, trajectory: str) -> None:
        self._kept.pop(trajectory, None)

    async def aclose(self) -> None:
        await self._sender.aclose()

    def _answered(self, body: Mapping[str, Json], prompt: Prompt) -> Told | None:
        """What the same request of this trajectory was answered before; None where it was not."""
        if self._replies is None:
            return None
        content = self._replies.answer(prompt.trajectory, digest_of(body))
        return None if content is None else self._dialect.read(content, self._tools)

    async def _asked(
        self, body: Mapping[str, Json], prompt: Prompt, sampling: SamplingParams
    ) -> Told:
        most = _most_tokens(body, len(prompt.images), sampling)
        held: list[float] = []
        bill = Bill()

        async def hold() -> None:
            nonlocal bill
            held.append(await self._ledger.hold(most))
            bill = Bill()

        def lose() -> None:
            nonlocal bill
            bill = Bill(lost_usd=held[-1])
            self._ledger.lose(held.pop())

        def read(content: Json) -> Told:
            nonlocal bill
            told = self._dialect.read(content, self._tools)
            bill = Bill(usage=told.usage, lost_usd=held[-1] if told.usage is None else None)
            bill = replace(bill, is_answer=True)
            self._ledger.settle(held.pop(), prompt.trajectory, told.usage)
            return told

        accounts = Accounts(
            before=hold,
            unbilled=lambda: self._ledger.release(held.pop()),
            lost=lose,
            retried=self._count_retry,
            record=lambda attempt: self._record(body, prompt, attempt, bill),
        )
        return await self._sender.post(body, read, accounts)

    def _count_retry(self) -> None:
        self._ledger.num_retries += 1

    def _leave_out(self, declined: Declined, body: Mapping[str, Json]) -> None:
        """Leave out the field that the model rejects, from now on; raises ``declined`` where it is
        about something else."""
        told = declined.told
        if declined.status not in (400, 422) or not _UNKNOWN_FIELD.search(told):
            raise declined
        for name in self._dialect.optional:
            if name in body and re.search(rf"\b{name}\b", told):
                if name not in self._left_out:
                    log.warning("%s rejects %s, which is left out", self.config.model, name)
                self._left_out.add(name)
                return
        raise declined

    def _record(
        self, body: Mapping[str, Json], prompt: Prompt, attempt: Attempt, bill: Bill
    ) -> None:
        """Keep a request with its answer, where that is wanted."""
        if not self.config.raw_dir and self._replies is None:
            return
        content: dict[str, Json] = {
            "trajectory": prompt.trajectory,
            "turn": prompt.turn,
            "attempt": attempt.number,
            "url": self._sender.url,
            "status": attempt.status,
            "seconds": round(attempt.seconds, 3),
            "pictures": [image.sha256 for image in prompt.images],
            "request": _without_pictures(dict(body)),
            "reply": _json_or_text(attempt.reply),
        }
        if self._replies is not None:
            self._replies.append(content, digest_of(body), bill)
        if self.config.raw_dir:
            words = re.sub(r"[^A-Za-z0-9]+", "_", prompt.trajectory)[:80]
            name = f"{words}_{prompt.turn}_{attempt.number}_{uuid.uuid4().hex[:8]}.json"
            text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            write_atomic(Path(self.config.raw_dir) / name, text)


def _most_tokens(
    body: Mapping[str, Json], num_pictures: int, sampling: SamplingParams
) -> TokenUsage:
    """More than a request can use: no tokenizer makes more tokens than there are bytes."""
    text = json.dumps(_without_pictures(dict(body)), ensure_ascii=False)
    read = len(text.encode("utf-8", "replace")) + MOST_PICTURE_TOKENS * num_pictures
    read += _OWN_WORDS
    # Written to the cache, where that is dearer than reading.
    return TokenUsage(cache_written=read, output=sampling.max_tokens)


def _without_pictures(value: Json) -> Json:
    """The same JSON, each picture's data shortened to how long it is."""
    if isinstance(value, dict):
        return {key: _shortened(key, each) for key, each in value.items()}
    return [_without_pictures(each) for each in value] if isinstance(value, list) else value


def _shortened(key: str, value: Json) -> Json:
    if isinstance(value, str) and key in ("url", "data") and len(value) > _LONGEST_SHOWN:
        return f"({len(value)} characters)"
    return _without_pictures(value)


def _json_or_text(reply: str) -> Json:
    try:
        content: Json = json.loads(reply)
    except (ValueError, RecursionError):
        return reply
    return content
