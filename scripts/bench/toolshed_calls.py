"""What one call costs over a raw Ray actor: latency, throughput, large arrays; calls of uneven
length; and the same through a central router and through Ray Serve. Rows a to e.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from scripts.bench.served_tools import CentralRouter, RawActor
from toolshed import codec
from toolshed.config import parse_tools
from toolshed.serving import wire
from toolshed.serving.router import RayHost
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolCall

HERE = "scripts.bench.served_tools"
NUM_REPLICAS, NUM_UNEVEN_REPLICAS = 2, 4
IN_FLIGHT = 64
MEGABYTES = 50
Figures = dict[str, float]


def open_shed(folder: Path, families: dict[str, Json]) -> Toolshed:
    """A shed as users have it: validation, deadlines and the log of calls on, caches off."""
    content: dict[str, Json] = {
        "host": "ray",
        "replies": "compact",
        "call_log": str(folder / "calls.jsonl"),
        **families,
    }
    return Toolshed.open(parse_tools(content))


def family(name: str, replicas: int, *, cache: bool = False) -> dict[str, Json]:
    return {"backend": f"{HERE}:{name}", "replicas": replicas, "cache": cache, "timeout_s": 600}


def call(name: str, **arguments: Json) -> ToolCall:
    return ToolCall(id="0", name=name, arguments=arguments)


async def asked(session: Session, each: ToolCall) -> None:
    result = await session.call(each)
    assert result.status == "ok", result


# ---- a and b -----------------------------------------------------------------------------------


def measure_calls(folder: Path, repeats: int, num: int, handicap_s: float) -> Figures:
    """No-op calls one at a time and many in flight, ours and raw in turns."""
    with open_shed(folder, {"plain": family("Plain", NUM_REPLICAS)}) as shed:
        raw = _raw_actors(NUM_REPLICAS)
        session = shed.session()
        before = executed(shed, "plain")

        async def ours() -> None:
            if handicap_s:
                _burn(handicap_s)
            await asked(session, call("plain.echo", number=1.0))

        turn = itertools.cycle(raw)

        async def theirs() -> None:
            await next(turn).echo.remote(1.0)

        def ours_now() -> None:
            if handicap_s:
                _burn(handicap_s)
            assert session.call_now(call("plain.echo", number=1.0)).status == "ok"

        def theirs_now() -> None:
            import ray

            ray.get(next(turn).echo.remote(1.0))

        rows = []
        for _ in range(repeats + 1):
            rows.append(
                (
                    asyncio.run(_p50_s(theirs, num)),
                    asyncio.run(_p50_s(ours, num)),
                    asyncio.run(_rate(theirs, num * 5, IN_FLIGHT)),
                    asyncio.run(_rate(ours, num * 5, IN_FLIGHT)),
                    _p50_now_s(theirs_now, num),
                    _p50_now_s(ours_now, num),
                )
            )
        made = len(rows) * num * 7
        check_executed(shed, "plain", before + made)
        logged = sum(1 for _ in (folder / "calls.jsonl").open())
        assert logged >= made, f"{logged} lines for {made} calls"
        for actor in raw:
            _kill(actor)
    rows = rows[1:]
    return {
        "noop_p50_ratio": _median(row[1] / row[0] for row in rows),
        "noop_p50_ms": 1e3 * _median(row[1] for row in rows),
        "raw_noop_p50_ms": 1e3 * _median(row[0] for row in rows),
        "noop_sync_p50_ratio": _median(row[5] / row[4] for row in rows),
        "throughput_64_ratio": _median(row[3] / row[2] for row in rows),
        "throughput_64_per_s": _median(row[3] for row in rows),
        "raw_throughput_64_per_s": _median(row[2] for row in rows),
    }


# ---- c -----------------------------------------------------------------------------------------


def measure_arrays(folder: Path, repeats: int, num: int) -> Figures:
    """The consuming call alone, its variable stored before."""
    import ray

    with open_shed(folder, {"arrays": family("Arrays", 1)}) as shed:
        (raw,) = _raw_actors(1)
        session = shed.session()
        asyncio.run(asked(session, call("arrays.make", megabytes=MEGABYTES)))
        reference = raw.make.remote(MEGABYTES)
        ray.wait([reference])

        async def ours() -> None:
            await asked(session, call("arrays.take", data="$depth_map"))

        async def theirs() -> None:
            await raw.take.remote(reference)

        rows = [
            (asyncio.run(_p50_s(theirs, num)), asyncio.run(_p50_s(ours, num)))
            for _ in range(repeats + 1)
        ][1:]
        copied = _bytes_seen(lambda: asyncio.run(_make_and_take(shed)))
        check_executed(shed, "arrays", 1 + (repeats + 1) * num + 2)
        _kill(raw)
    return {
        "array_50mb_ratio": _median(row[1] / row[0] for row in rows),
        "array_50mb_ms": 1e3 * _median(row[1] for row in rows),
        "caller_bytes_copied": float(copied),
    }


async def _make_and_take(shed: Toolshed) -> None:
    session = shed.session()
    await asked(session, call("arrays.make", megabytes=MEGABYTES))
    await asked(session, call("arrays.take", data="$depth_map"))


def _bytes_seen(work: Callable[[], None]) -> int:
    """Bytes of arrays that this process packed or unpacked meanwhile."""
    seen: list[int] = []

    def pack(value: object) -> codec.Packed:
        packed = codec.pack(value)
        seen.append(packed.num_bytes)
        return packed

    def unpack(packed: codec.Packed, *more: Any) -> Any:
        seen.extend(memoryview(each).nbytes for each in packed.buffers if each is not None)
        return codec.unpack(packed, *more)

    with patch.object(wire, "pack", pack), patch.object(wire, "unpack", unpack):
        work()
    return sum(seen)


# ---- d and e -----------------------------------------------------------------------------------


def measure_uneven(folder: Path, repeats: int, seed: int, *, pinned: bool) -> Figures:
    """400 calls of 20, 50 or 150 ms on 4 replicas that work one at a time, 64 callers."""
    rng = np.random.default_rng(seed)
    naps_s = [float(each) for each in rng.choice([0.02, 0.05, 0.15], size=400, p=[0.4, 0.4, 0.2])]
    ideal_per_s = NUM_UNEVEN_REPLICAS / statistics.mean(naps_s)
    latest_s = 64 / ideal_per_s
    kinds: dict[str, Callable[[float], Awaitable[Any]]] = {}
    with open_shed(folder, {"plain": family("Plain", NUM_UNEVEN_REPLICAS)}) as shed:
        raw = _raw_actors(NUM_UNEVEN_REPLICAS)
        central = _central(raw)
        session = shed.session()
        turn = itertools.cycle(_one_replica_sessions(shed) if pinned else [session])

        async def ours(nap_s: float) -> None:
            await asked(next(turn), call("plain.nap", seconds=nap_s))

        async def routed(nap_s: float) -> None:
            await central.call.remote("nap", nap_s)

        async def echoed() -> None:
            await central.call.remote("echo", 1.0)

        async def raw_echo() -> None:
            await raw[0].echo.remote(1.0)

        kinds = {"uneven": ours, "central_router_uneven": routed}
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
        for _ in range(repeats):
            for name, each in kinds.items():
                results[name].append(asyncio.run(_uneven(each, naps_s)))
        check_executed(shed, "plain", repeats * len(naps_s))
        noop = [
            asyncio.run(_p50_s(echoed, 100)) / asyncio.run(_p50_s(raw_echo, 100))
            for _ in range(repeats)
        ]
        for actor in [*raw, central]:
            _kill(actor)
    figures = {"central_router_noop_ratio": _median(noop)}
    for name, rows in results.items():
        figures[f"{name}_efficiency"] = _median(rate / ideal_per_s for rate, _ in rows)
        figures[f"{name}_p99_ratio"] = _median(p99_s / latest_s for _, p99_s in rows)
    with contextlib.suppress(ImportError):  # of ray[serve], which nothing else here needs
        figures["serve_uneven_efficiency"] = _serve_uneven(naps_s) / ideal_per_s
    return figures


async def _uneven(
    each: Callable[[float], Awaitable[Any]], naps_s: Sequence[float]
) -> tuple[float, float]:
    """Calls per second, and the 99th percentile of a call's latency."""
    waiting = iter(naps_s)
    latencies_s: list[float] = []

    async def caller() -> None:
        for nap_s in waiting:
            began_s = time.perf_counter()
            await each(nap_s)
            latencies_s.append(time.perf_counter() - began_s)

    began_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    took_s = time.perf_counter() - began_s
    return len(naps_s) / took_s, float(np.percentile(latencies_s, 99))


def _serve_uneven(naps_s: Sequence[float]) -> float:
    from ray import serve

    deployment = serve.deployment(
        num_replicas=NUM_UNEVEN_REPLICAS, max_ongoing_requests=1, ray_actor_options={"num_cpus": 0}
    )(RawActor)
    handle = serve.run(deployment.bind(), name="bench", route_prefix=None)

    async def served(nap_s: float) -> None:
        await handle.nap.remote(nap_s)

    rate, _ = asyncio.run(_uneven(served, naps_s))
    serve.shutdown()
    return rate


def _one_replica_sessions(shed: Toolshed) -> list[Session]:
    """A handicap for the self-test: half of the calls may use one replica alone."""
    pool = _service(shed).pool_of("plain")
    pool._stateful = True
    return [shed.session(), shed.session()]


# ---- pieces ------------------------------------------------------------------------------------


def _service(shed: Toolshed) -> Any:
    host = shed._host._host  # type: ignore[attr-defined]
    assert isinstance(host, RayHost)
    return host.service


def executed(shed: Toolshed, name: str) -> int:
    """Calls that reached back-ends, by the replicas' own counters."""
    import ray

    members = _service(shed).pool_of(name).members
    healths = ray.get(
        [each.actor.health.options(concurrency_group="health").remote() for each in members]
    )
    return sum(each.num_executed for each in healths)


def check_executed(shed: Toolshed, name: str, num_calls: int) -> None:
    """What was not executed was not measured."""
    num = executed(shed, name)
    assert num == num_calls, f"{name}: {num} executions of {num_calls} calls"


def _raw_actors(num: int) -> list[Any]:
    import ray

    made = [ray.remote(RawActor).options(num_cpus=0).remote() for _ in range(num)]
    ray.get([each.echo.remote(0.0) for each in made])
    return made


def _central(replicas: list[Any]) -> Any:
    import ray

    central = ray.remote(CentralRouter).options(num_cpus=0, max_concurrency=1000).remote(replicas)
    ray.get(central.call.remote("echo", 0.0))
    return central


def _kill(actor: Any) -> None:
    import ray

    ray.kill(actor)


def _burn(seconds: float) -> None:
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


async def _p50_s(one: Callable[[], Awaitable[None]], num: int) -> float:
    taken_s = []
    for _ in range(num):
        began_s = time.perf_counter()
        await one()
        taken_s.append(time.perf_counter() - began_s)
    return statistics.median(taken_s)


def _p50_now_s(one: Callable[[], None], num: int) -> float:
    taken_s = []
    for _ in range(num):
        began_s = time.perf_counter()
        one()
        taken_s.append(time.perf_counter() - began_s)
    return statistics.median(taken_s)


async def _rate(one: Callable[[], Awaitable[None]], num: int, in_flight: int) -> float:
    left = iter(range(num))

    async def caller() -> None:
        for _ in left:
            await one()

    began_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return num / (time.perf_counter() - began_s)


def _median(values: Any) -> float:
    return float(statistics.median(list(values)))
