"""Whatever dies, hangs, starves or crawls: every call has one outcome, none is lost or repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toolshed.chaos_scene import Scene, ask, call, family, kill, outcomes, process_of, work
from tests.toolshed.fake_tools import picture
from tests.toolshed.threads import until
from toolshed.codec import pack
from toolshed.config import parse_tools
from toolshed.serving.remote import scale
from toolshed.serving.wire import RayArray
from toolshed.shed import Toolshed
from toolshed.types import Json, Variable

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: str
) -> Iterator[tuple[Toolshed, Path]]:
    folder = tmp_path_factory.mktemp("chaos")
    content: dict[str, Json] = {
        "host": "ray",
        "chaos": family(folder, "Chaos", replicas=2),
        "batches": family(folder, "Together", replicas=2, max_batch_size=4, max_wait_ms=300.0),
        "effects": family(folder, "Effects", timeout_s=5.0, run_timeout_s=20.0),
        "vision_ops": {"backend": "light"},
    }
    with Toolshed.open(parse_tools(content)) as shed:
        yield shed, folder


@pytest.fixture
def scene(opened: tuple[Toolshed, Path], ray_cluster: str) -> Scene:
    return Scene(*opened, ray_cluster)


# ---- replicas that die -------------------------------------------------------------------------


def test_killed_while_idle(scene: Scene) -> None:
    victim, other = scene.processes("chaos")
    kill(victim)
    began_s = time.monotonic()
    results = scene.ask(*[work("chaos", each, 0.02) for each in range(20)])
    assert outcomes(results) == {"ok": 20}
    executed = scene.executed()
    assert set(executed) == {f"work {each}" for each in range(20)}
    assert other in scene.processes("chaos", without=victim)
    assert time.monotonic() - began_s < 5 + 10, "5 s, and what a process takes to start here"


def test_killed_in_a_call(scene: Scene) -> None:
    victim, _ = scene.processes("chaos")

    def during() -> None:
        until(lambda: len(scene.runs_in(victim)) >= 1)
        kill(victim)

    results = scene.ask(*[work("chaos", each, 0.4) for each in range(6)], during=during)
    assert outcomes(results) == {"ok": 6}
    assert victim not in {process_of(each) for each in results}
    lost = {each.rpartition(" ")[0] for each in scene.runs_in(victim)}
    assert scene.executed() == {f"work {i}": 1 + (f"work {i}" in lost) for i in range(6)}
    scene.processes("chaos", without=victim)


def test_killed_in_a_batch(scene: Scene) -> None:
    victim, _ = scene.processes("batches")

    def during() -> None:
        until(lambda: len(scene.runs_in(victim)) == 4)
        kill(victim)

    results = scene.ask(*[work("batches", each, 0.5) for each in range(8)], during=during)
    assert outcomes(results) == {"ok": 8}
    lost = {each.rpartition(" ")[0] for each in scene.runs_in(victim)}
    assert len(lost) == 4
    assert scene.executed() == {f"batch {i}": 1 + (f"batch {i}" in lost) for i in range(8)}
    scene.processes("batches", without=victim)


def test_what_has_effects_is_never_executed_twice(scene: Scene) -> None:
    (victim,) = scene.processes("effects", 1)

    def during() -> None:
        until(lambda: len(scene.runs_in(victim)) >= 2)
        kill(victim)

    results = scene.ask(*[work("effects", each, 0.3) for each in range(6)], during=during)
    executed = scene.executed()
    assert set(executed.values()) == {1}
    for result in results:
        assert (result.status, result.reason) in (("ok", ""), ("failed", "replica_died"))
        assert result.status == "failed" or executed[f"work {result.call_id}"] == 1
    assert outcomes(results)["replica_died"] >= 1
    scene.processes("effects", 1, without=victim)


# ---- the control actor -------------------------------------------------------------------------


def test_control_actor_killed(scene: Scene) -> None:
    import ray

    before = scene.processes("chaos")
    control = scene.control
    results = scene.ask(
        *[work("chaos", each, 0.5) for each in range(8)],
        during=lambda: ray.kill(control, no_restart=False),
    )
    assert outcomes(results) == {"ok": 8}
    assert scene.executed() == {f"work {each}": 1 for each in range(8)}
    assert scene.processes("chaos") == before, "the new one adopts what it finds"
    kill(before[0])
    assert before[1] in scene.processes("chaos", without=before[0]), "it attends to them as well"
    assert outcomes(scene.ask(*[work("chaos", each, 0.1) for each in range(8, 12)])) == {"ok": 4}


def test_what_scale_asked_for_survives_the_control_actor(scene: Scene, ray_cluster: str) -> None:
    import ray

    scale(ray_cluster, "chaos", 3, scene.service.namespace)
    three = scene.processes("chaos", 3)
    scale(ray_cluster, "chaos", 2, scene.service.namespace)
    two = scene.processes("chaos", 2)
    assert set(two) < set(three)
    ray.kill(scene.control, no_restart=False)
    assert scene.processes("chaos", 2) == two
    assert outcomes(scene.ask(*[work("chaos", each, 0.1) for each in range(4)])) == {"ok": 4}


# ---- calls that hang ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sleep", "spin", "gil"])
def test_hung_replica_is_replaced_and_its_call_done_elsewhere(scene: Scene, how: str) -> None:
    before = scene.processes("chaos")
    results = scene.ask(
        call("chaos.hang", which=1, how=how), *[work("chaos", each, 0.1) for each in range(2, 8)]
    )
    assert outcomes(results) == {"ok": 7}
    hung, other = scene.processes_of("hang 1")
    assert hung in before and process_of(results[0]) == other
    assert scene.executed() == {"hang 1": 2, **{f"work {each}": 1 for each in range(2, 8)}}
    scene.processes("chaos", without=hung)


@pytest.mark.parametrize("how", ["sleep", "gil"])
def test_deadline_comes_on_time_and_what_has_effects_is_not_repeated(
    scene: Scene, how: str
) -> None:
    (hung,) = scene.processes("effects", 1)
    began_s = time.perf_counter()
    (result,) = scene.ask(call("effects.hang", which=1, how=how))
    took_s = time.perf_counter() - began_s
    assert (result.status, result.reason) == ("failed", "timeout")
    assert 5.0 <= took_s < 5.0 + 3.0
    kill(hung)
    scene.processes("effects", 1, without=hung)
    assert scene.executed() == {"hang 1": 1}


# ---- memory and devices ------------------------------------------------------------------------


def test_no_memory_is_a_typed_failure_and_the_replica_lives_on(scene: Scene) -> None:
    before = scene.processes("chaos")
    results = scene.ask(call("chaos.allocate", which=1), work("chaos", 2, 0.0))
    assert outcomes(results) == {"out_of_memory": 1, "ok": 1}
    assert "Unable to allocate" in results[0].text
    assert scene.executed()["allocate 1"] == 4, "twice here, twice elsewhere"
    results = scene.ask(call("effects.allocate", which=3))
    assert outcomes(results) == {"out_of_memory": 1} and scene.executed()["allocate 3"] == 1
    assert scene.processes("chaos") == before


def test_lost_gpu_ends_its_replica_and_the_call_is_done_elsewhere(scene: Scene) -> None:
    before = scene.processes("chaos")
    (result,) = scene.ask(call("chaos.touch_gpu", which=1))
    assert result.status == "ok" and scene.executed()["touch_gpu 1"] == 2
    (lost,) = set(before) - {process_of(result)}
    scene.processes("chaos", without=lost)


def test_slow_replica_is_left_alone_until_it_is_fast_again(scene: Scene) -> None:
    slow, _ = scene.processes("chaos")
    (scene.folder / "slow").write_text(str(slow))
    session = scene.shed.session()
    for first in range(0, 60, 4):
        results = ask(session, *[work("chaos", first + each, 0.03) for each in range(4)])
        assert outcomes(results) == {"ok": 4}
    assert len(scene.runs_in(slow)) < 20, "traffic moved away"
    (scene.folder / "slow").unlink()

    def is_back() -> bool:
        results = ask(session, *[work("chaos", 100 + each, 0.03) for each in range(8)])
        return sum(process_of(each) == slow for each in results) >= 3

    until(is_back)


def test_variable_whose_memory_is_gone_is_refused_by_name(scene: Scene) -> None:
    import ray

    session = scene.shed.session([picture()])
    depth_m = np.ones((300, 300), dtype=np.float32)
    read = call("vision_ops.index_at", data="$depth_map", u=0.5, v=0.5)

    class Owner:
        def put(self) -> list[object]:
            return [ray.put(pack(depth_m).buffers)]

    owner = ray.remote(Owner).options(num_cpus=0).remote()
    (reference,) = ray.get(owner.put.remote())
    held = RayArray("<f4", (300, 300), "key", reference, 0)
    session.variables.keep(Variable(name="depth_map", kind="depth_map", value=held))
    ray.kill(owner)
    until(lambda: _is_lost(reference))
    (gone,) = ask(session, read)
    assert (gone.status, gone.reason) == ("refused", "expired_variable")
    assert "$depth_map" in gone.text and "variables: none" in gone.text
    (again,) = ask(session, call("chaos.see", which=2, image_index=0))
    assert again.status == "ok" and outcomes(ask(session, read)) == {"ok": 1}


def _is_lost(reference: Any) -> bool:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.OwnerDiedError:
        return True
    return False
