"""Tools in Ray actors: same answers, and every way in which a replica can let a caller down."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.toolshed.fake_tools import HERE, picture
from toolshed.call_log import read_calls
from toolshed.command import MACHINE_FAILURE, USER_ERROR
from toolshed.config import ToolshedConfig, parse_tools, replaced
from toolshed.errors import ConfigError, ToolFailure, ToolshedError
from toolshed.serve import main as serve
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import DepthEstimate, IndexedValue, Json, StoredArray, ToolCall, ToolResult

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def trouble(folder: Path, **settings: Json) -> dict[str, Json]:
    return {
        "backend": f"{HERE}:Trouble",
        "arguments": {"folder": str(folder)},
        "timeout_s": 40.0,
        "run_timeout_s": 2.0,
        "cache": False,
        **settings,
    }


def config(folder: Path) -> ToolshedConfig:
    """The tools of these tests, whose calls are logged."""
    fragile = {**trouble(folder), "backend": f"{HERE}:FragileRobot"}
    return parse_tools(
        {
            "host": "ray",
            "replies": "compact",
            "call_log": str(folder / "log.jsonl"),
            "depth_estimator": {"backend": f"{HERE}:FakeDepth", "process": "both"},
            "vision_ops": {"backend": f"{HERE}:FakeVisionOps", "process": "both"},
            "robot": {"backend": f"{HERE}:FakeRobot", "process": "both"},
            "trouble": trouble(folder, replicas=2),
            "fragile": {**fragile, "process": "fragile"},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trouble")


@pytest.fixture(scope="module")
def opened(folder: Path, ray_cluster: str) -> Iterator[Toolshed]:
    with Toolshed.open(config(folder)) as shed:
        yield shed


@pytest.fixture
def shed(opened: Toolshed, folder: Path) -> Toolshed:
    (folder / "calls").unlink(missing_ok=True)
    return opened


def num_attempts(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


def call(name: str, **arguments: Json) -> ToolCall:
    return ToolCall(id="id", name=name, arguments=arguments)


def ask(session: Session, *calls: ToolCall) -> list[ToolResult]:
    async def together() -> list[ToolResult]:
        return list(await asyncio.gather(*(session.call(each) for each in calls)))

    return asyncio.run(together())


def number(result: ToolResult) -> float:
    assert isinstance(result.value, IndexedValue), result
    assert isinstance(result.value.value, float)
    return result.value.value


def test_chain_over_processes_with_arrays_by_reference(shed: Toolshed) -> None:
    session = shed.session([picture(1, 300)], scene=3)
    (depth,) = ask(session, call("depth_estimator.estimate_depth", image_index=0))
    assert depth.text == "$depth_map"
    held = session.variables["depth_map"].value
    assert isinstance(held, StoredArray) and held.nbytes == 4 * 300 * 300
    assert isinstance(depth.value, DepthEstimate) and depth.value.depth_m[-1, 0] == 300
    (read,) = ask(session, call("vision_ops.index_at", data="$depth_map", u=0, v=1))
    assert read.text == '{"depth": 300.00}' and read.timings.total_s > 0
    taken = ask(session, call("robot.capture_image"), call("robot.capture_image"))
    assert [each.text for each in taken] == ["image 1: 8x8", "image 2: 8x8"]
    assert session.world is not None and session.world.seed == 3


def test_a_call_that_its_caller_cancels_is_logged(shed: Toolshed, folder: Path) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shed.session().call(call("trouble.nap", seconds=0.3)), 0.1)
        await asyncio.sleep(0.4)  # it keeps its replica busy until it ends

    asyncio.run(give_up())
    (line,) = (each for each in read_calls(folder / "log.jsonl") if each["status"] == "failed")
    assert (line["tool"], line["reason"]) == ("trouble.nap", "cancelled")


def test_refusals_cross_the_border(shed: Toolshed) -> None:
    (result,) = ask(shed.session(), call("trouble.decline"))
    assert (result.status, result.reason, result.text) == ("refused", "no_mood", "not today")
    assert 0 < result.timings.run_s < result.timings.total_s and result.timings.transfer_s > 0


def test_calls_go_to_the_idlest_replica(shed: Toolshed) -> None:
    results = ask(shed.session(), *[call("trouble.nap", seconds=0.3)] * 4)
    processes = [number(each) for each in results]
    assert sorted(processes.count(each) for each in set(processes)) == [2, 2]
    assert max(each.timings.queue_s for each in results) > 0.2


def test_bug_fails_with_its_traceback_for_people_only(shed: Toolshed, folder: Path) -> None:
    (result,) = ask(shed.session(), call("trouble.bug"))
    assert (result.status, result.reason) == ("failed", "error")
    assert "KeyError: 'a bug'" in result.text
    assert num_attempts(folder) == 1


def test_out_of_memory_is_tried_alone_and_then_elsewhere(shed: Toolshed, folder: Path) -> None:
    (result,) = ask(shed.session(), call("trouble.starve"))
    assert (result.status, result.reason) == ("failed", "out_of_memory")
    assert num_attempts(folder) == 4


def test_dead_replica_is_replaced_and_its_call_retried(shed: Toolshed, folder: Path) -> None:
    (result,) = ask(shed.session(), call("trouble.die_once"))
    assert number(result) == 1 and num_attempts(folder) == 2
    processes = {number(each) for each in naps_until_two(shed)}
    assert len(processes) == 2


def test_hung_replica_is_killed_and_its_call_retried(shed: Toolshed, folder: Path) -> None:
    before = {number(each) for each in naps_until_two(shed)}
    (folder / "calls").unlink()
    (result,) = ask(shed.session(), call("trouble.hang_once"))
    assert number(result) == 1 and num_attempts(folder) == 2
    after = {number(each) for each in naps_until_two(shed)}
    assert len(after) == 2 and after != before


def naps_until_two(shed: Toolshed) -> list[ToolResult]:
    """Both replicas at work, as soon as both are up again."""
    for _ in range(100):
        results = ask(shed.session(), *[call("trouble.nap", seconds=0.1)] * 2)
        if len({number(each) for each in results}) == 2:
            return results
    raise AssertionError("the second replica never came back")


def test_calls_with_effects_are_never_repeated(shed: Toolshed, folder: Path) -> None:
    (result,) = ask(shed.session(), call("fragile.die_once"))
    assert (result.status, result.reason) == ("failed", "replica_died")
    assert num_attempts(folder) == 1
    (again,) = ask(shed.session(), call("fragile.where"))
    assert again.status == "ok"


def test_families_can_share_a_process(folder: Path) -> None:
    families: dict[str, Json] = {
        "trouble": trouble(folder, process="one"),
        "fragile": {**trouble(folder, process="one"), "backend": f"{HERE}:FragileRobot"},
    }
    with Toolshed.open(parse_tools({"host": "ray", **families})) as shed:
        first, second = ask(shed.session(), call("trouble.where"), call("fragile.where"))
        assert number(first) == number(second)


def test_slots_let_calls_of_one_replica_overlap(folder: Path) -> None:
    with Toolshed.open(parse_tools({"host": "ray", "trouble": trouble(folder, slots=8)})) as shed:
        results = ask(shed.session(), *[call("trouble.nap", seconds=0.3)] * 8)
        assert max(each.timings.queue_s for each in results) < 0.3, "none waited for another"


def test_one_budget_for_queue_and_run(folder: Path) -> None:
    content: dict[str, Json] = {"host": "ray", "trouble": trouble(folder, timeout_s=1.5)}
    with Toolshed.open(parse_tools(content)) as shed:
        results = ask(shed.session(), *[call("trouble.nap", seconds=1.0)] * 3)
        assert [(each.status, each.reason) for each in results] == [
            ("ok", ""),
            ("failed", "timeout"),
            ("failed", "busy"),
        ]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("config", ConfigError, "unstartable cannot start: no weights"),
        ("package", ConfigError, "unstartable cannot start: no torch"),
        ("memory", ToolFailure, "replica_died: unstartable cannot start: out_of_memory: .*no room"),
    ],
)
def test_start_that_fails_says_why_and_whose_fault_it_was(
    how: str, error: type[ToolshedError], message: str
) -> None:
    unstartable: Json = {"backend": f"{HERE}:Unstartable", "arguments": {"how": how}}
    with pytest.raises(error, match=message):
        Toolshed.open(parse_tools({"host": "ray", "unstartable": unstartable}))


def test_serve_ends_with_the_code_of_whose_fault_it_was(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tools.yaml"
    for how, code in (("config", USER_ERROR), ("memory", MACHINE_FAILURE)):
        unstartable = {"backend": f"{HERE}:Unstartable", "arguments": {"how": how}}
        path.write_text(yaml.safe_dump({"unstartable": unstartable}))
        assert serve([str(path), "--ray-address", ray_cluster, "--namespace", how]) == code
        assert "unstartable cannot start" in capsys.readouterr().err


def test_replica_that_never_comes_back_fails_its_calls_at_once(
    tmp_path: Path,
) -> None:
    once = {**trouble(tmp_path, restarts=1), "backend": f"{HERE}:StartsOnce"}
    with Toolshed.open(parse_tools({"host": "ray", "once": once})) as shed:
        (first,) = ask(shed.session(), call("once.die_once"))
        began_s = time.perf_counter()
        (second,) = ask(shed.session(), call("once.where"))
        assert time.perf_counter() - began_s < 1.0
    for result in (first, second):
        assert (result.status, result.reason) == ("failed", "replica_died")
        assert "no room the second time" in result.text


def test_two_programs_share_served_tools(ray_cluster: str, folder: Path, tmp_path: Path) -> None:
    content: dict[str, Json] = {"host": "ray", "trouble": trouble(folder)}
    path, address = tmp_path / "tools.yaml", tmp_path / "address.json"
    path.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "toolshed.serve", str(path), "--namespace", "shared"]
    command += ["--ray-address", ray_cluster, "--address-file", str(address)]
    joined = replaced(parse_tools(content), {"ray_address": ray_cluster, "namespace": "shared"})
    with pytest.raises(ConfigError, match="nobody serves trouble"):
        Toolshed.open(joined)
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if address.exists():
                break
            time.sleep(0.1)
        assert json.loads(address.read_text())["address"] == ray_cluster
        by_file = replaced(joined, {"ray_address": str(address)})
        with Toolshed.open(joined) as first, Toolshed.open(by_file) as second:
            (one,) = ask(first.session(), call("trouble.where"))
            (two,) = ask(second.session(), call("trouble.where"))
            assert number(one) == number(two)
        with Toolshed.open(joined) as third:
            (three,) = ask(third.session(), call("trouble.where"))
            assert number(three) == number(one)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
    assert not address.exists()


def test_address_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "absent.json"
    wrong = replaced(
        parse_tools({"host": "ray", "roborefer": {"backend": "light"}}), {"ray_address": str(path)}
    )
    with pytest.raises(ConfigError, match=r"absent\.json holds no address"):
        Toolshed.open(wrong)
