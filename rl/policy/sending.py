"""JSON posted to one address: limits, time-outs, and retries for what machines broke.

What the user has to mend stops at once; a server that stays broken is a PolicyFailure.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from rl.policy.api_config import ApiConfig
from rl.policy.base import PolicyFailure
from toolshed.errors import ConfigError, ToolFailure
from toolshed.types import Json

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_REPLY_BYTES = 64 << 20
_RETRIED = (408, 409, 425, 429)
"""And everything from 500."""
_SECRET_CHARS = 8
"""A shorter key, x or EMPTY, is the word of a local server and no secret."""
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of a 429 that no waiting mends."""


class Declined(ConfigError):
    """The server says that the request itself is wrong."""

    def __init__(self, status: int, told: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.told = told
        """What the server said, at most 2,000 characters; not for showing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One request and what came of it."""

    number: int
    status: int
    """0 where there was no answer."""
    reply: str
    """The body, or why there is none."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """Called around every attempt of a request."""

    before: Callable[[], Awaitable[None]]
    """May refuse by raising."""
    unbilled: Callable[[], None]
    lost: Callable[[], None]
    retried: Callable[[], None]
    record: Callable[[Attempt], None]


class _Broken(Exception):
    """An attempt failed and may be repeated."""

    def __init__(
        self, reason: str, text: str, *, billed: bool, wait_s: float | None = None
    ) -> None:
        super().__init__(text)
        self.reason, self.text, self.billed, self.wait_s = reason, text, billed, wait_s


class Sender:
    """Requests to one address, used within one event loop."""

    def __init__(self, config: ApiConfig, path: str, headers: Mapping[str, str], key: str) -> None:
        self.url = config.address + path
        self._config, self._headers, self._key = config, dict(headers), key
        self._places = asyncio.Semaphore(config.concurrent)
        self._next_s = 0.0
        """When the next request may go, on the loop's clock."""
        self._http: aiohttp.ClientSession | None = None
        self._random = random.Random()

    async def post(
        self, body: Mapping[str, Json], read: Callable[[Json], T], accounts: Accounts
    ) -> T:
        """The answer as ``read`` makes it.

        Raises Declined or another ConfigError for what the user has to mend, PolicyFailure once
        no retry is left, and whatever ``accounts.before`` raises.
        """
        data = json.dumps(body).encode()
        for number in range(self._config.retries + 1):
            try:
                return await self._attempt(number, data, read, accounts)
            except _Broken as broken:
                if number == self._config.retries:
                    raise self._failure(broken, number) from broken
                wait_s = self._wait_s(number, broken)
                accounts.retried()
                log.warning(
                    "%s: %s; retry %d of %d in %.1f s",
                    self.url, broken.text, number + 1, self._config.retries, wait_s,
                )  # fmt: skip
                await asyncio.sleep(wait_s)
        raise AssertionError("every attempt returns or raises")

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.close()

    # ---- one attempt ------------------------------------------------------------------------

    async def _attempt(
        self, number: int, data: bytes, read: Callable[[Json], T], accounts: Accounts
    ) -> T:
        async with self._places:
            await self._paced()
            await accounts.before()
            begun = time.monotonic()
            status, reply, settled = 0, "cancelled", False
            try:
                status, reply, headers = await self._exchange(data)
                told = self._judged(status, reply, headers, read)
                settled = True
                return told
            except _Broken as broken:
                reply = reply if status else broken.text
                (accounts.lost if broken.billed else accounts.unbilled)()
                settled = True
                raise
            except ConfigError:
                accounts.unbilled()
                settled = True
                raise
            finally:
                if not settled:
                    accounts.lost()
                seconds = time.monotonic() - begun
                reply = self._without_key(reply)
                accounts.record(Attempt(number=number, status=status, reply=reply, seconds=seconds))

    async def _paced(self) -> None:
        """Wait for this request's place in the minute."""
        now_s = asyncio.get_running_loop().time()
        start_s = max(now_s, self._next_s)
        if self._config.requests_per_minute:
            self._next_s = start_s + 60.0 / self._config.requests_per_minute
        if start_s > now_s:
            await asyncio.sleep(start_s - now_s)

    async def _exchange(self, data: bytes) -> tuple[int, str, Mapping[str, str]]:
        timeout_s = self._config.timeout_s
        try:
            async with self._session().post(self.url, data=data, allow_redirects=False) as answer:
                body = bytearray()
                async for piece in answer.content.iter_chunked(1 << 16):
                    body += piece
                    if len(body) > MAX_REPLY_BYTES:
                        raise _Broken("bad_response", "the answer is too long", billed=True)
                text = body.decode("utf-8", "replace")
                return answer.status, text, dict(answer.headers.items())
        except aiohttp.InvalidURL as error:
            raise ConfigError(f"api.base_url makes no address: {self.url}") from error
        except TimeoutError as error:
            text = f"no answer within {timeout_s:g} s"
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            raise _Broken("timeout", text, billed=not connecting) from error
        except aiohttp.ClientConnectionError as error:
            # Once the request is on its way the server may have done and billed it.
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise _Broken("unreachable", self._without_key(str(error)), billed=sent) from error
        except aiohttp.ClientError as error:
            text = self._without_key(f"{type(error).__name__}: {error}")
            raise _Broken("bad_response", text, billed=True) from error

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(
                total=self._config.timeout_s, sock_connect=self._config.connect_timeout_s
            )
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._config.concurrent),
                headers={**self._headers, "Content-Type": "application/json"},
                timeout=timeout,
                trust_env=not self._config.is_local,
            )
        return self._http

    # ---- what an answer means ---------------------------------------------------------------

    def _judged(
        self, status: int, reply: str, headers: Mapping[str, str], read: Callable[[Json], T]
    ) -> T:
        shown = self._shown(reply)
        if status in _RETRIED or status >= 500:
            if any(code in reply for code in _SPENT):
                raise self._declined(status, reply, "its account has nothing left; mend that")
            wait_s = _retry_after_s(headers)
            text = f"answers {status}: {shown}"
            raise _Broken(_reason(status), text, billed=False, wait_s=wait_s)
        if status != 200:
            raise self._declined(status, reply, self._remedy(status))
        try:
            return read(json.loads(reply))
        except (ValueError, RecursionError) as error:
            text = f"answers what is no JSON: {shown[:100]}"
            raise _Broken("bad_response", text, billed=True) from error
        except ToolFailure as error:
            raise _Broken(error.reason, str(error), billed=True) from error

    def _declined(self, status: int, reply: str, remedy: str) -> Declined:
        told = self._shown(reply)
        message = f"{self.url} answers {status} for model {self._config.model} ({told}); {remedy}"
        return Declined(status, reply[:2000], message)

    def _remedy(self, status: int) -> str:
        config = self._config
        if status in (401, 403):
            return f"check the key in the variable {config.variable}"
        if status == 404 or 300 <= status < 400:
            return "check the model's name, api.base_url and api.provider"
        return (
            "change what is said to be wrong; api.calls=text asks without native tools, "
            "tools.config=none without any"
        )

    def _failure(self, broken: _Broken, number: int) -> PolicyFailure:
        text = f"{self.url}: {broken.text} (after {number} retries)"
        failure = PolicyFailure(broken.reason, text)
        failure.num_retries = number
        return failure

    def _wait_s(self, number: int, broken: _Broken) -> float:
        """Seconds before the next attempt; PolicyFailure where the server asks for too many."""
        longest = self._config.longest_wait_s
        backoff_s = self._config.backoff_s * 2.0**number * self._random.uniform(0.5, 1.0)
        if broken.wait_s is not None:
            if broken.wait_s > longest:
                text = f"asks to wait {broken.wait_s:g} s, and api.longest_wait_s is {longest:g}"
                raise self._failure(
                    _Broken(broken.reason, f"{broken.text}; {text}", billed=False), number
                ) from broken
            # Whatever else waits for its turn would be told the same.
            resume_s = asyncio.get_running_loop().time() + broken.wait_s
            self._next_s = max(self._next_s, resume_s)
            # Some servers ask for 0 s again and again.
            return max(broken.wait_s, min(backoff_s, longest))
        return float(min(backoff_s, longest))

    def _shown(self, reply: str) -> str:
        return " ".join(self._without_key(reply).split())[:300]

    def _without_key(self, text: str) -> str:
        """The text for people and files; servers repeat keys in what they say of them."""
        return text.replace(self._key, "***") if len(self._key) >= _SECRET_CHARS else text


def _reason(status: int) -> str:
    return {408: "timeout", 429: "rate_limited"}.get(status, "server_error")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks for, as a number or a date; None where it asks for none."""
    asked = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(asked[name]) / unit
            return max(0.0, seconds) if seconds < 1e9 else None
        except (KeyError, ValueError):
            continue
    try:
        return max(
            0.0, email.utils.parsedate_to_datetime(asked["retry-after"]).timestamp() - time.time()
        )
    except (KeyError, ValueError):
        return None
