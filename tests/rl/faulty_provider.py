"""A server of chat completions that fails a seeded share of its requests, in every way it can."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.rl import provider_rules as rules

FAULTS = ("429", "429 with Retry-After", "500", "closed", "hang", "truncated")
_POINT = re.compile(r"\((0\.\d+), (0\.\d+)\)")
_NAME = re.compile(r"Where is the (\w+ \w+)\?")


@dataclass
class FaultyProvider:
    """The running server and its log; which requests fail follows from seed and request, and the
    ways to fail come in turns."""

    share: float
    seed: int
    url: str = ""
    log: list[tuple[str, int, str]] = field(default_factory=list)
    """Of each request: its digest, the seed of its trajectory, and ``answered`` or a fault."""
    doomed: str = ""
    """A request whose question holds this never gets an answer."""
    mistaken: str = ""
    """One whose question holds this gets a wrong one."""
    problems: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the end, so that no request hangs on."""
    _asked: Counter[str] = field(default_factory=Counter)
    _num_faults: int = 0

    def fault(self, digest: str, question: str) -> str:
        """What this request suffers; empty where it is answered."""
        number = self._asked[digest]
        self._asked[digest] += 1
        if self.doomed and self.doomed in question:
            return "500"
        drawn = hashlib.sha256(f"{self.seed} {digest} {number}".encode()).digest()
        if int.from_bytes(drawn[:4], "big") / 2**32 >= self.share:
            return ""
        self._num_faults += 1
        return FAULTS[self._num_faults % len(FAULTS)]


@contextmanager
def faulty_provider(share: float, seed: int) -> Iterator[FaultyProvider]:
    """The server under ``http://127.0.0.1:PORT/v1``; at the end no request may have been wrong."""
    running = FaultyProvider(share=share, seed=seed)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/chat/completions", functools.partial(_answer, running))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        running.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await running.stop.wait()
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
        loop.call_soon_threadsafe(running.stop.set)
        thread.join(10)


async def _answer(running: FaultyProvider, request: web.Request) -> web.Response:
    body = await request.json()
    try:
        rules.check_chat({name.lower(): value for name, value in request.headers.items()}, body)
    except (rules.Refused, KeyError, ValueError, OSError) as error:
        running.problems.append(repr(error))
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    question = _question(body)
    fault = running.fault(digest, question)
    running.log.append((digest, body["seed"], fault or "answered"))
    await asyncio.sleep(0.02)
    text = json.dumps(
        _turn(body, question, wrong=bool(running.mistaken) and running.mistaken in question)
    )
    match fault:
        case "":
            return web.Response(text=text)
        case "429":
            return web.json_response({"error": "slow down"}, status=429)
        case "429 with Retry-After":
            return web.json_response({}, status=429, headers={"Retry-After": "0.05"})
        case "500":
            return web.json_response({"error": "oops"}, status=500)
        case "truncated":
            return web.Response(text=text[: len(text) // 2])
        case "hang":
            await running.stop.wait()
    # Gone where the client gave up first.
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _question(body: dict[str, Any]) -> str:
    content = next(each["content"] for each in body["messages"] if each["role"] == "user")
    return content if isinstance(content, str) else " ".join(p.get("text", "") for p in content)


def _turn(body: dict[str, Any], question: str, *, wrong: bool) -> dict[str, Any]:
    """A call of the pointing tool about the object asked for, then the point that it found."""
    last = body["messages"][-1]
    if last["role"] != "tool":
        name = _NAME.search(question)
        assert name is not None, question
        arguments = json.dumps({"image_index": 0, "obj_name": name[1]})
        calls = [("roborefer__detect_one", arguments)]
        return rules.chat_answer("I look.", calls, "stop", (80, 20, 10))
    found = _POINT.search(last["content"])
    point = f"({found[1]}, {found[2]})" if found and not wrong else "(0.999, 0.999)"
    return rules.chat_answer(f"<answer>[{point}]</answer>", [], "stop", (20, 120, 10))
