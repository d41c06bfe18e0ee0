"""The demo's plan: apart scenes, its own configs, stages that go stale, workers that die loudly."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import BENCHMARKS, EVAL_SEED, TABLETOP
from eval.demo import data_sets, driver, examination, stages
from eval.demo import works as demo_works
from eval.demo.driver import WorkFailed
from eval.demo.facts import Usage
from eval.demo.works import DemoSettings, plans, works
from rl.tabletop.dataset import Order, make_questions
from sft.config import load_config
from toolshed.errors import ConfigError

ROOT = Path(__file__).parents[3]


# ---- scenes -------------------------------------------------------------------------------------


def apart(ranges: Iterable[range]) -> bool:
    ordered = sorted(ranges, key=lambda one: one.start)
    return all(a.stop <= b.start for a, b in pairwise(ordered))


def drawn_by_the_demo(seed: int) -> dict[str, list[range]]:
    base = data_sets.base_scene_seed(seed)
    return {
        "train": [data_sets.scenes_of(o) for o in data_sets.orders("train", seed, False)],
        "test": [data_sets.scenes_of(o) for o in data_sets.orders("test", seed, False)],
        "base": [range(base, base + data_sets.BASE_SCENES)],
    }


def benchmark_scenes() -> list[range]:
    """Each tabletop benchmark in whole, and any limit below it."""
    largest = max(one.size for key, one in BENCHMARKS.items() if key.startswith(TABLETOP))
    return [data_sets.scenes_of(Order(num=largest, seed=EVAL_SEED))]


def test_nobody_is_examined_on_scenes_of_training() -> None:
    assert EVAL_SEED < 2**31
    for seed in range(1, 1001):
        drawn = drawn_by_the_demo(seed)
        every = chain(*drawn.values(), benchmark_scenes())
        assert apart(every), f"seed {seed}"


def test_no_demo_seed_reaches_the_benchmarks() -> None:
    last_digits = {
        order.seed % 1000
        for name in ("train", "test")
        for order in data_sets.orders(name, 1, False)
    }
    assert EVAL_SEED % 1000 not in last_digits


def test_apart_can_fail() -> None:
    assert not apart([range(5, 9), range(0, 6)])
    assert apart([range(5, 9), range(0, 5)])


def test_a_data_set_looks_at_few_scenes_for_a_question(tmp_path: Path) -> None:
    for part, order in enumerate(data_sets.orders("test", 3, True)):
        make_questions(order, tmp_path, name=f"q{part}")
    numbers = [int(path.stem.split("-")[2]) for path in tmp_path.glob("q*_images/*[0-9].png")]
    spans = [data_sets.scenes_of(order) for order in data_sets.orders("test", 3, True)]
    assert numbers
    assert all(any(number in span for span in spans) for number in numbers)
    assert all(number % 1_000_000 < 5 * 8 for number in numbers)


def test_the_world_of_the_benchmarks_can_be_played(tmp_path: Path) -> None:
    (question,) = make_questions(Order(kinds=("pick",), num=1, seed=EVAL_SEED), tmp_path, name="q")
    assert question.scene is not None
    assert question.scene in data_sets.scenes_of(Order(num=1, seed=EVAL_SEED))


# ---- configs ------------------------------------------------------------------------------------


def settings_in(folder: Path) -> DemoSettings:
    tools = (ROOT / "configs" / "tools" / "demo.yaml").read_text()
    (folder / "tools.yaml").write_text(tools)
    return DemoSettings(out=folder)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DemoSettings:
    return settings_in(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def before(settings: DemoSettings) -> dict[str, str]:
    """The fingerprints of the plan as it is."""
    return fingerprints(settings)


def fingerprints(settings: DemoSettings) -> dict[str, str]:
    return {plan.name: plan.fingerprint for plan in plans(works(settings))}


def test_the_demo_examines_by_its_yaml(settings: DemoSettings) -> None:
    every = {work.name: work for work in works(settings)}
    config = every["eval_full_rl"].config[0]  # type: ignore[index]
    assert isinstance(config, examination.EvaluateConfig)
    asked = config.settings
    assert (asked.max_tokens, asked.max_turn_tokens, asked.max_length) == (220, 64, 320)
    assert (asked.max_turns, asked.max_calls, asked.width) == (7, 8, 64)
    assert (asked.reward, asked.temperature, asked.seed) == ("demo", 1.0, settings.seed)
    ceiling = every["tool_ceiling"].config[0]  # type: ignore[index]
    assert (ceiling.stage.num_greedy, ceiling.stage.num_greedy_nearer) == (256, 512)
    assert ceiling.stage.tasks == stages.TASKS


def test_a_smoke_run_asks_four_questions() -> None:
    plan = examination.stage_plan("full_rl", smoke=True)
    assert (plan.num_greedy, plan.num_greedy_nearer, plan.num_sampled) == (4, 4, 4)
    assert examination.stage_plan("swapped_image", smoke=True).num_sampled == 0


def test_the_same_plan_has_the_same_fingerprints(
    settings: DemoSettings, before: dict[str, str]
) -> None:
    assert fingerprints(settings) == before


AFTER_SFT = {
    *("sft", "full_rl", "shuffled_rl"),
    *("eval_sft", "eval_full_rl", "eval_shuffled_rl", "eval_swapped_image"),
}
AFTER_FREE = {"toolfree_sft", "toolfree_rl", "eval_toolfree_sft", "eval_toolfree_rl"}


@pytest.mark.parametrize(
    ("name", "value", "stale"),
    [
        ("NUM_TRACES", 1999, AFTER_SFT),
        ("DIRECT_SHARE", 0.4, AFTER_SFT),
        ("NUM_DRILLS", 10, AFTER_SFT),
        ("DRILL_KINDS", ("depth",), AFTER_SFT),
    ],
)
def test_a_number_of_the_mixture_makes_what_it_made_stale(
    settings: DemoSettings,
    before: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
    stale: set[str],
) -> None:
    monkeypatch.setattr(data_sets, name, value)
    assert changed(before, fingerprints(settings)) == stale


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_weights_of_the_kinds_make_stages_stale(
    settings: DemoSettings, before: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(data_sets.WEIGHTS, "nearer", 3.0)
    assert changed(before, fingerprints(settings)) == AFTER_SFT | AFTER_FREE
    monkeypatch.delitem(data_sets.WEIGHTS, "nearer")
    assert {"data_train", "data_test"} <= changed(before, fingerprints(settings))


def test_shares_of_the_mixture_make_sft_stale(
    settings: DemoSettings, before: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = data_sets.mixture

    def fewer_drills(*, with_tools: bool) -> data_sets.Mixture:
        parts = mixture(with_tools=with_tools)
        *others, last = parts.shares
        return replace(parts, shares=(*others, replace(last, weight=0.1)))

    monkeypatch.setattr(data_sets, "mixture", fewer_drills)
    assert changed(before, fingerprints(settings)) == AFTER_SFT | AFTER_FREE


@pytest.mark.parametrize(
    "field", ["num_greedy", "num_greedy_nearer", "num_sampled", "draws", "tasks"]
)
def test_what_is_asked_of_a_stage_makes_its_evaluation_stale(
    settings: DemoSettings, before: dict[str, str], monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    value: Any = ("point",) if field == "tasks" else 17
    other = replace(stages.BY_NAME["sft"], **{field: value})
    monkeypatch.setitem(stages.BY_NAME, "sft", other)
    assert changed(before, fingerprints(settings)) == {"eval_sft"}


@pytest.mark.parametrize("key", ["max_tokens", "max_turn_tokens", "max_length", "max_turns"])
def test_limits_make_every_evaluation_stale(
    settings: DemoSettings, before: dict[str, str], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:

    def other(schema: type, room: str, name: str, words: list[str]) -> object:
        return load_config(schema, room, name, [*words, f"{key}=33"] if room == "eval" else words)

    monkeypatch.setattr(demo_works, "load_config", other)
    evaluations = {name for name in before if name.startswith(("eval_", "tool_ceiling"))}
    assert changed(before, fingerprints(settings)) == evaluations


def test_the_content_of_the_tool_yaml_makes_stages_stale(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = fingerprints(settings)
    text = settings.tools.read_text()
    settings.tools.write_text(text.replace("replies: compact", "replies: released"))
    assert changed(first, fingerprints(settings)) == set(first) - {"data_train", "data_test"}
    settings.tools.write_text(f"# A remark changes nothing.\n{text}")
    assert changed(first, fingerprints(settings)) == set()


# ---- workers ------------------------------------------------------------------------------------

START = multiprocessing.get_context("spawn")


def driver_of(out: Path) -> driver._Driver:
    usage = Usage(out / "usage.json")
    return driver._Driver(out=out, seed=1, smoke=True, setup_s=None, usage=usage)


def dying_worker(code: int) -> driver._Worker:
    """A worker that ends by itself, or for -9 one that the system kills."""
    here, there = START.Pipe()
    target, argument = (time.sleep, 60) if code < 0 else (os._exit, code)
    process = START.Process(target=target, args=(argument,), daemon=True)
    process.start()
    there.close()
    if code < 0:
        process.kill()
    return driver._Worker(process, here)


PLAN = demo_works.Plan(
    name="sft", needs=(), seconds=1.0, fingerprint="f", folder=None, files=(), tools=False
)


@pytest.mark.parametrize(
    ("code", "told"), [(1, "exit code 1"), (-9, "killed by SIGKILL, as the system does when mem")]
)
def test_a_worker_that_dies_while_starting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    driver = driver_of(tmp_path)
    monkeypatch.setattr(driver, "_start_workers", lambda: driver.workers.append(dying_worker(code)))
    with pytest.raises(WorkFailed, match=rf"first worker failed \({told}.*logs/worker0\.log"):
        driver.run()
    driver.close()


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_worker_that_dies_at_work_is_told(tmp_path: Path, has_begun: bool) -> None:
    driver = driver_of(tmp_path)
    driver.workers.append(replace(dying_worker(-9), plan=PLAN))
    if has_begun:
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "sft.log").touch()
    log = "sft" if has_begun else "worker0"
    with pytest.raises(WorkFailed, match=rf"sft failed \(killed by SIGKILL.*logs/{log}\.log"):
        driver._collect()
    driver.close()


def test_work_for_a_dead_worker_is_told(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    driver.workers.append(dying_worker(1))
    driver.workers[0].process.join()
    driver.waiting.append(PLAN)
    with pytest.raises(WorkFailed, match=r"worker failed \(exit code 1\).*logs/worker0\.log"):
        driver._assign()
    driver.close()


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (WorkFailed("sft failed"), 3, "error: sft failed"),
        (KeyboardInterrupt(), 130, "the same command goes on from here"),
        (ConfigError("no such tool"), 2, "error: no such tool"),
    ],
)
def test_the_exit_code_names_the_owner(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    told: str,
) -> None:
    def run(self: driver._Driver) -> None:
        raise raised

    monkeypatch.setattr(driver, "ROOT", tmp_path)
    monkeypatch.setattr(driver._Driver, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert driver.main(["--smoke"]) == code
    assert told in capsys.readouterr().err


def test_a_worker_that_stops_for_the_user_is_the_users_affair(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    driver.workers.append(replace(dying_worker(2), plan=PLAN))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sft.log").write_text("error: runs/x: no space left on device; ...\n")
    with pytest.raises(WorkFailed, match=r"sft failed \(exit code 2\): runs/x: no space") as told:
        driver._collect()
    assert told.value.code == 2
    driver.close()
