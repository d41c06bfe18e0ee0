"""Engines as a fleet, without an engine: routing, and servers that fail in ways a real one seldom
does, played by a small HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from rl.policy.base import PolicyFailure
from rl.policy.sglang import fleet as fleets
from rl.policy.sglang import tensor_sync
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.fleet import Checkpoint, Fleet
from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.requests import Continue, EngineSampling, Generate
from rl.policy.sglang.server import EngineLost, Server, new_session
from rl.policy.sglang.weights import paused
from rl.types import SamplingParams
from sft.render import Renderer
from tests.rl.engines import prompt_for

SAMPLING = EngineSampling(
    max_new_tokens=4, temperature=1.0, stop_token_ids=(2,), logit_bias={"5": -1e9}
)
FIRST = Generate(rid="first", input_ids=(1,), image_data=None, sampling_params=SAMPLING)
Streams: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def fleet_of(config: EngineConfig, folder: Path) -> Fleet:
    """As it is once all engines have started, of which none has."""
    fleet = Fleet(config, Checkpoint(folder=folder, version=0), folder, FIRST)
    fleet._usable = set(range(config.servers))
    return fleet


async def read_request(reader: asyncio.StreamReader) -> str:
    """The path of the next request of a connection; empty where there is none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = [line.split(":")[1] for line in head.splitlines() if line.startswith("Content-Length")]
    await reader.readexactly(int(length[0]) if length else 0)
    return head.split()[1]


def answer(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@contextlib.asynccontextmanager
async def served(server: Server, streams: Streams) -> AsyncIterator[None]:
    """An HTTP server in its place, and a process that lives."""

    open_ones: set[Any] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await streams(reader, writer)
        writer.transport.abort()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    server._http = new_session()
    server._lifeline = os.open(os.devnull, os.O_RDONLY)
    server._process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    process, http = server._process, server._http
    try:
        yield
    finally:
        listening.close()
        await http.close()
        await asyncio.gather(*open_ones)
        process.kill()
        process.wait()


# ---- routing ------------------------------------------------------------------------------------


def test_trajectories_keep_their_engine_and_the_least_loaded_is_next(tmp_path: Path) -> None:
    fleet = fleet_of(EngineConfig(servers=3), tmp_path)

    async def route() -> None:
        places = [(await fleet.server_for(f"t{i}")).number for i in range(6)]
        assert places == [0, 1, 2, 0, 1, 2]
        assert [(await fleet.server_for(f"t{i}")).number for i in range(6)] == places
        fleet.release("t1")
        fleet.release("t4")
        fleet.release("never seen")
        assert (await fleet.server_for("new")).number == 1
        fleet._usable = {0, 2}
        assert (await fleet.server_for("new")).number in (0, 2)
        fleet._usable, fleet._lost = set(), {0, 1, 2}
        with pytest.raises(PolicyFailure, match="all engines were given up"):
            await fleet.server_for("t0")

    asyncio.run(route())


def test_siblings_share_an_engine_and_whole_groups_are_spread(tmp_path: Path) -> None:
    fleet = fleet_of(EngineConfig(servers=3), tmp_path)

    async def route(question: str, num: int) -> list[int]:
        return [(await fleet.server_for(f"{question}/{i}", question)).number for i in range(num)]

    async def play() -> None:
        groups = [await route(f"q{n}", 4) for n in range(6)]
        assert groups == [[n % 3] * 4 for n in range(6)]
        for i in range(4):
            fleet.release(f"q1/{i}")
            fleet.release(f"q4/{i}")
        # Engine 0 has eight and one of them is a sibling; engine 1 has none.
        for i in range(3):
            fleet.release(f"q0/{i}")
        assert [(await fleet.server_for(f"q0/more{i}", "q0")).number for i in range(2)] == [1, 1]
        fleet._usable = {0, 2}
        assert (await fleet.server_for("q0/last", "q0")).number == 0, "the other one is gone"

    asyncio.run(play())


def test_a_policy_keeps_siblings_together_and_pictures_while_they_are_used(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer.load(tiny)
    policy = SglangPolicy(EngineConfig(servers=2, logs=str(tmp_path / "engine")), renderer, tiny)
    policy.fleet._usable = {0, 1}
    prompts = [prompt_for(renderer, f"t{i}") for i in range(2)]
    length = len(renderer.expand(prompts[0].token_ids, prompts[0].images).token_ids)
    asked: list[int] = []

    def post_of(server: Server) -> Callable[[Generate], Awaitable[Any]]:
        async def post(request: Generate) -> Any:
            asked.append(server.number)
            assert all(Path(each).exists() for each in request.image_data or ())
            # As 0.5.19 tells it of a request that ran while the weights changed.
            server.version += 1
            end = renderer.end_of_turn
            meta = {
                "finish_reason": {"type": "stop"},
                "prompt_tokens": length,
                "cached_tokens": 0,
                "weight_version": str(server.version),
                "output_token_logprobs": [[-0.5, end, None]],
            }
            return {"output_ids": [end], "meta_info": meta}

        return post

    async def play() -> None:
        for server in policy.fleet.servers:
            monkeypatch.setattr(server, "post", post_of(server))
        said = [await policy.generate(each, SamplingParams(max_tokens=4)) for each in prompts]
        assert asked == [0, 0] and [each.versions for each in said] == [(0,), (1,)]
        pictures = tmp_path / "engine" / "sent_pictures"
        assert len(list(pictures.iterdir())) == 2, "theirs, and that of the first request"
        policy.pictures._kept_bytes = 0
        policy.release("t0")
        assert len(list(pictures.iterdir())) == 2
        policy.release("t1")
        assert len(list(pictures.iterdir())) == 1, "engines that start again read it"
        await policy.aclose()
        assert not pictures.exists()

    asyncio.run(play())


# ---- servers that fail --------------------------------------------------------------------------


def test_a_connection_is_not_used_again(tmp_path: Path) -> None:
    server = Server(EngineConfig(), 0, tmp_path / "log")

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # What a server does that closes an idle connection while a request is on its way.
        await read_request(reader)
        answer(writer)
        await read_request(reader)

    async def play() -> None:
        async with served(server, once):
            for _ in range(3):
                assert await server.post(Continue()) == {}

    asyncio.run(play())


@pytest.mark.parametrize("is_well", [True, False])
def test_one_broken_connection_ends_no_engine_that_is_well(tmp_path: Path, is_well: bool) -> None:
    fleet = fleet_of(EngineConfig(restarts=0, patience_s=0.3), tmp_path)
    (server,) = fleet.servers

    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await read_request(reader) == "/health":
            if not is_well:
                await reader.read()
            answer(writer)
            await writer.drain()

    async def play() -> None:
        async with served(server, breaking):
            with pytest.raises(EngineLost) as caught:
                await server.post(FIRST)
            await fleet.doubt(server, str(caught.value))
            assert bool(fleet.usable) == is_well
            assert server._process is not None
            if is_well:
                server.kill()
                server._process.wait()
                await fleet.doubt(server, "its process ended")
                assert not fleet.usable
            await fleet.stop()

    asyncio.run(play())


def test_an_update_ends_where_an_engine_never_answers(tmp_path: Path) -> None:
    config = EngineConfig(servers=2, restarts=0, patience_s=0.3)
    fleet = fleet_of(config, tmp_path)
    well, hung = fleet.servers
    asked: list[str] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        answer(writer)
        await writer.drain()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def play() -> None:
        async with served(well, answering), served(hung, silent), asyncio.timeout(10):
            async with paused(fleet):
                assert fleet.usable == [well]
            assert asked == ["/pause_generation", "/continue_generation"]
            await fleet.stop()

    asyncio.run(play())


def test_restarts_are_counted_within_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(EngineConfig(restarts=2), tmp_path)
    (server,) = fleet.servers
    now = [0.0]
    monkeypatch.setattr(fleets, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def start(checkpoint: Path, version: int, first: Generate) -> None:
        server.num_starts += 1

    async def lose() -> bool:
        fleet.quarantine(server, "lost")
        await asyncio.gather(*fleet._tasks)
        return bool(fleet.usable)

    async def play() -> None:
        monkeypatch.setattr(server, "start", start)
        for _ in range(6):
            assert await lose()
            now[0] += fleets.RESTARTS_WITHIN_S / 2
        now[0] -= 10.0
        assert not await lose(), "the third within an hour"
        assert fleet.num_restarts == 6

    asyncio.run(play())


def test_an_engine_whose_port_was_taken_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(EngineConfig(restarts=1), tmp_path)
    (server,) = fleet.servers
    failures = [1]

    async def start(checkpoint: Path, version: int, first: Generate) -> None:
        server.num_starts += 1
        if server.num_starts <= failures[0]:
            raise EngineLost("it ended while it started: address already in use")

    async def play() -> None:
        monkeypatch.setattr(server, "start", start)
        await fleet.start()
        assert server.num_starts == 2 and fleet.usable == [server]
        await fleet.stop()
        failures[0] = 9
        with pytest.raises(EngineLost, match="already in use"):
            await fleet.start()
        assert server.num_starts == 4

    asyncio.run(play())


# ---- the event loop -----------------------------------------------------------------------------


def test_tensors_are_gathered_and_copied_beside_the_event_loop_and_before_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(EngineConfig(), tmp_path)
    threads: dict[str, threading.Thread] = {}
    locked: list[bool] = []

    class Held:
        def trained(self) -> dict[str, Tensor]:
            threads["gathered"] = threading.current_thread()
            return {"model.language_model.norm.weight": torch.ones(2)}

    class Sync(tensor_sync.TensorSync):
        def _link(self, servers: Any, *, lasting: bool) -> Any:
            return contextlib.nullcontext()

        async def _send(self, *given: Any) -> None:
            assert torch.equal(self._kept["model.norm.weight"], torch.ones(2))

    copied = tensor_sync._copied

    def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        threads["copied"] = threading.current_thread()
        locked.append(fleet.updating.locked())
        return copied(tensors)

    async def take(*given: Any) -> None:
        return None

    async def play() -> None:
        monkeypatch.setattr(tensor_sync, "_copied", copy)
        monkeypatch.setattr(fleet.servers[0], "post", take)
        sync = Sync(fleet)
        monkeypatch.setattr(sync._completeness, "check", take)
        held: Any = Held()
        await sync.update(held, 1)
        assert fleet.version == 1

    asyncio.run(play())
    assert set(threads) == {"gathered", "copied"} and locked == [False]
    assert threading.main_thread() not in threads.values()
