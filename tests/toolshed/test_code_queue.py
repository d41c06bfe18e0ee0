"""Programs that wait for their turn: one budget for queue and run, a bounded queue, two classes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from tests.toolshed.test_code_executor import ask
from toolshed.config import parse_tools
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolCall


@contextlib.contextmanager
def narrow(**keys: Json) -> Iterator[Toolshed]:
    """Code alone, one program at a time."""
    family: dict[str, Json] = {"backend": "light", "arguments": {"max_running": 1}, **keys}
    with Toolshed.open(parse_tools({"code_executor": family})) as opened:
        yield opened


def nap(seconds: float) -> tuple[str, dict[str, Json]]:
    return "code_executor.exec", {"code": f"time.sleep({seconds})\n1"}


def test_more_calls_than_may_wait_are_busy_at_once() -> None:
    with narrow(max_queue=1) as shed:
        found = ask(shed.session(), nap(1.0), nap(0.0), nap(0.0), nap(0.0))
    assert [each.status for each in found] == ["ok", "ok", "failed", "failed"]
    assert found[2].reason == "busy" and found[2].text == "1 calls wait already"
    assert found[2].timings.total_s < 0.9 < found[1].timings.queue_s
    assert found[0].timings.queue_s == 0.0 < 0.9 < found[0].timings.run_s


def test_the_queue_and_the_run_share_one_budget() -> None:
    with narrow(timeout_s=4.0) as shed:
        started_s = time.monotonic()
        found = ask(shed.session(), nap(2.0), nap(60.0), nap(0.0))
        (alone,) = ask(shed.session(), nap(60.0))
    assert found[0].status == "ok"
    assert (found[1].status, found[1].reason) == ("failed", "timeout")
    assert "left of 4 s; its call waited" in found[1].text
    assert (found[2].status, found[2].reason) == ("failed", "busy")
    assert "the budget of 4 s" in found[2].text
    assert found[1].timings.queue_s > 1.5 and found[2].timings.queue_s > 3.5
    # By itself a program that is too slow is to blame for it.
    assert (alone.status, alone.reason) == ("refused", "limit_wall")
    assert alone.text == "Error: code: the program took longer than 4 s and was stopped"
    assert time.monotonic() - started_s < 30


def test_interactive_sessions_go_first() -> None:
    ended: list[str] = []

    async def one(session: Session, name: str) -> None:
        word, arguments = nap(0.2)
        result = await session.call(ToolCall(id=name, name=word, arguments=arguments))
        assert result.status == "ok"
        ended.append(name)

    async def together(shed: Toolshed) -> None:
        rollouts = [one(shed.session(), f"rollout {number}") for number in range(3)]
        await asyncio.gather(*rollouts, one(shed.session(priority="interactive"), "person"))

    with narrow() as shed:
        asyncio.run(together(shed))
    assert ended == ["rollout 0", "person", "rollout 1", "rollout 2"]
