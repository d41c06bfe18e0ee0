"""The page of a run's trajectories: what it holds, what it leaves out, how it looks in a browser
at three widths; no text of a model breaks it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rl.config import QuestionsConfig, RLConfig
from rl.dump import TrajectoryLog
from rl.types import Completion, Reward, Trajectory, Turn
from rl.view import main, read
from sft.config import to_yaml
from sft.sample import Span
from tests.browser import look
from tests.eval.demo.fake_run import broken, fake_trajectory
from toolshed.errors import ConfigError

HOSTILE = "</script><img src=x onerror=document.title='broken'>`${1} \ud800 \u2028"
TASKS = ("point", "depth", "nearer")
OPEN = "document.querySelector('#list > details[open]')"


def played(task: str, number: int, root: Path, *, right: bool) -> Trajectory:
    """With tokens, as training has them: 4 of the prompt, 6 sampled, 3 of a reply, 5 sampled."""
    made = fake_trajectory(task, number, right=right, tools=True, root=root)
    value = float(right)
    return replace(
        made,
        token_ids=tuple(range(18)),
        spans=(
            Span(start=0, end=4, kind="prompt"),
            Span(start=4, end=10, kind="sampled"),
            Span(start=10, end=13, kind="reply"),
            Span(start=13, end=18, kind="sampled"),
        ),
        logprobs=(-0.5,) * 11,
        reward=Reward(value=value, accuracy=value, well_formed=True, answer="(0.5, 0.5)"),
    )


def hostile(trajectory: Trajectory) -> Trajectory:
    turn = Turn(completion=Completion(text=f"{HOSTILE}<answer>{HOSTILE}</answer>"))
    question = replace(trajectory.question, id=HOSTILE, target=HOSTILE)
    return replace(trajectory, turns=(*trajectory.turns[:-1], turn), question=question)


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of three groups of four; in the first group all are right."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "images").mkdir()
    config = RLConfig(model=str(tiny), data=[QuestionsConfig(path="x.parquet")], group_size=4)
    (folder / "config.yaml").write_text(to_yaml(config))
    log = TrajectoryLog(folder, 1)
    for step in (1, 2, 3):
        groups = []
        for place, task in enumerate(TASKS):
            group = [played(task, place, folder, right=not place or i < 2) for i in range(4)]
            groups.append([replace(t, sample_index=4 * place + i) for i, t in enumerate(group)])
        for trajectory in groups[0]:
            for image, source in zip(trajectory.images, trajectory.question.images, strict=False):
                Image.fromarray(image.pixels).save(source.image)
        groups[1][3] = broken(groups[1][3])
        groups[2][0] = hostile(groups[2][0])
        log.write(step, groups)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    assert main([str(run)]) == 0
    return run / "view.html"


def js(browser: Any, words: str) -> Any:
    return browser.execute_script(f"return {words}")


def opened(browser: Any, page: Path, anchor: str = "") -> Any:
    look(browser, 1280)
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}{anchor and '#' + anchor}")
    until = time.monotonic() + 30
    while not js(browser, "document.body.dataset.readyMs"):
        assert time.monotonic() < until, "waited in vain for the page"
        time.sleep(0.05)
    return browser


def choose(browser: Any, name: str, value: str) -> str:
    browser.execute_script(
        "const field = document.querySelector('.filters').elements[arguments[0]];"
        "field.value = arguments[1]; field.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        value,
    )
    return str(js(browser, "document.querySelector('#count').textContent"))


def test_it_opens_alone_and_filters(browser: Any, page: Path) -> None:
    opened(browser, page)
    names = js(browser, "performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in names if not name.startswith("data:")] == []
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    assert choose(browser, "step", "2") == "12 of 36 episodes"
    assert choose(browser, "outcome", "right") == "8 of 36 episodes"
    assert choose(browser, "task", "depth") == "2 of 36 episodes"
    assert choose(browser, "outcome", "failed") == "1 of 36 episodes"
    assert choose(browser, "outcome", "").startswith("4 of")
    assert choose(browser, "tools", "roborefer.detect_one") == "4 of 36 episodes"
    assert choose(browser, "task", "point").startswith("4 of")
    assert choose(browser, "trained", "no") == "4 of 36 episodes", "a group without spread"
    assert "trained=no" in js(browser, "location.hash")


def test_what_was_trained_is_shown(browser: Any, page: Path) -> None:
    opened(browser, page, "2/1/4")
    assert "advantage +0.7071" in js(browser, f"{OPEN}.textContent")
    stretches = js(browser, f"[...{OPEN}.querySelectorAll('.stretch')].map((one) => one.className)")
    assert stretches == ["stretch sampled towards", "stretch reply ", "stretch sampled towards"]
    words = js(browser, f"{OPEN}.querySelector('.trained').textContent")
    assert "Tokens: 11 tokens trained" in words and "sampled, 6, +0.7071" in words
    assert js(browser, f"{OPEN}.querySelectorAll('.step').length") >= 3
    browser.execute_script(f"{OPEN}.querySelector('.trained').open = true; {OPEN}.open = false")
    time.sleep(0.2)
    opened(browser, page, "1/0/0")
    assert "11 sampled tokens, none trained" in js(browser, f"{OPEN}.textContent")


def test_hostile_words_stay_words(browser: Any, page: Path) -> None:
    opened(browser, page, "1/2/8")
    assert js(browser, "document.title").startswith("SpaceTools")
    assert js(browser, "document.querySelector('img[src=x]')") is None
    assert "onerror=document.title" in js(browser, f"{OPEN}.textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, page: Path, scheme: str) -> None:
    opened(browser, page)
    look(browser, 390, scheme)
    for anchor in ("", "2/1/4", "1/2/8"):
        browser.execute_script("location.hash = arguments[0]", anchor)
        time.sleep(0.3)
        browser.execute_script(
            "document.querySelectorAll('.trained').forEach((one) => (one.open = true))"
        )
        assert js(browser, "document.documentElement.scrollWidth") <= 390


def test_what_is_too_much_is_left_out_by_whole_steps(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [sorted({line["step"] for line in read(run, None, most).lines}) for most in
            (36, 35, 24, 23)] == [[1, 2, 3], [1, 3], [1, 3], [3]]  # fmt: skip
    out = tmp_path / "some.html"
    assert main([str(run), "--most", "30", "--out", str(out)]) == 0
    assert "24 of 36 trajectories" in capsys.readouterr().out
    assert "12 of 36 trajectories are left out: 2 of the 3 steps" in out.read_text()
    assert main([str(run), "--step", "2", "--most", "5", "--out", str(out)]) == 0
    assert "5 of 36 trajectories" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--step", "7"], "--step 7 is none that"), (["--most", "0"], "--most 0 must be above 0")],
)
def test_what_cannot_be_shown_is_said(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_trajectories_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no trajectories\.jsonl"):
        read(tmp_path, None, 10)
    (tmp_path / "trajectories.jsonl").write_text(json.dumps({"step": 1}))
    with pytest.raises(ConfigError, match="has not kept a step yet"):
        read(tmp_path, None, 10)
