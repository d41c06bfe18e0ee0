"""A server on this machine that speaks both protocols, strictly, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.rl import provider_rules as rules


@dataclass(frozen=True, kw_only=True)
class Says:
    """One answer of the server."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    """Mangled name and JSON of the arguments."""
    finish: str = "stop"
    """``stop``, ``length``, ``refusal``, or the provider's own word."""
    usage: tuple[int, int, int] = (100, 20, 10)
    """Tokens read in full, read from the cache, written."""
    status: int = 200
    raw: str | None = None
    """The body instead of an answer."""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    edit: Callable[[dict[str, Any]], None] | None = None
    """Changes the answer in its protocol's form."""


@dataclass
class Provider:
    """The running server; answers are given in order, the last one again and again."""

    url: str
    answers: list[Says]
    requests: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was wrong with requests."""
    most_at_once: int = 0
    num_at_once: int = 0
    script: Callable[[dict[str, Any]], Says | None] | None = None
    """Asked first; None leaves it to ``answers``."""

    def next_answer(self, body: dict[str, Any]) -> Says:
        made = self.script(body) if self.script is not None else None
        if made is not None:
            return made
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def provider(*answers: Says) -> Iterator[Provider]:
    """The server under ``http://127.0.0.1:PORT/v1``; at the end no request may have been wrong."""
    running = Provider(url="", answers=list(answers))
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", _route(running, rules.check_chat, "chat"))
        app.router.add_post("/v1/messages", _route(running, rules.check_messages, "messages"))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        running.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    def work() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield running
        assert not running.problems, running.problems
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def _route(
    running: Provider, check: Callable[[dict[str, str], dict[str, Any]], None], form: str
) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        running.requests.append(body)
        try:
            check({name.lower(): value for name, value in request.headers.items()}, body)
        except (rules.Refused, KeyError, ValueError, OSError) as error:
            if "key" not in str(error):
                running.problems.append(repr(error))
            return _error(401 if "key" in str(error) else 400, str(error))
        said = running.next_answer(body)
        running.num_at_once += 1
        running.most_at_once = max(running.most_at_once, running.num_at_once)
        try:
            await asyncio.sleep(said.delay_s)
        finally:
            running.num_at_once -= 1
        return _response(said, form)

    return answer


def _response(said: Says, form: str) -> web.Response:
    if said.raw is not None:
        return web.Response(text=said.raw, status=said.status, headers=said.headers)
    if said.status != 200:
        return _error(said.status, said.text, said.headers)
    make = rules.chat_answer if form == "chat" else rules.messages_answer
    content = make(said.text, list(said.calls), said.finish, said.usage)
    if said.edit is not None:
        said.edit(content)
    return web.json_response(content, headers=said.headers)


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    content = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    return web.json_response(content, status=status, headers=headers)
