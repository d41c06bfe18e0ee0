"""A run's page in a browser: it opens, filters, obeys keys, fits a phone, and no text breaks it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.gate import Finding, Verdict
from eval.report.anchors import anchor_of
from eval.report.publish import publish
from eval.rows import EvalRow
from rl.show.episode import Drawing
from scripts.bench.made_rows import made_rows
from tests.browser import look
from tests.eval.report.made import FACTS, call, made_row, point, turn

HOSTILE = "</script><img src=x onerror=document.title='broken'>\"'`${1} \u2028 &lt;"
LONE = "\ud800"
"""Half of a pair, which has no UTF-8."""
NUM = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    rows = [*made_rows(folder / "images", num=NUM), *odd_rows()]
    Path(rows[1].episode.pictures[0].location).unlink()
    finding = Finding(kind="phantom_variable", key=rows[2].key, words=f"$mask {HOSTILE}")
    facts = replace(FACTS, subject=f"tiny {HOSTILE[:60]}", verdict=Verdict(findings=(finding,)))
    publish(folder, rows, facts)
    return folder


def odd_rows() -> list[EvalRow]:
    """Hostile words wherever words can stand, and a question with every kind of drawing."""
    hostile = made_row(
        "blinkdepth", 0, 0.0, question=HOSTILE, answer=HOSTILE, target=HOSTILE, kind="choice",
        question_id="a/b#c?'(é) <i>", draw=3, repeat=2, question_type="relative_depth",
        turns=[turn(call(f"x.{HOSTILE}", reply=HOSTILE + LONE, why=HOSTILE), text=HOSTILE)],
    )  # fmt: skip
    corners = tuple((0.1 + 0.1 * i, 0.3 + 0.05 * (i % 3)) for i in range(8))
    shapes = [
        point("cup", (0.2, 0.2), (0.4, 0.4)),
        call("a.b", Drawing(shape="box", points=corners)),
        call("a.c", Drawing(shape="grasp", points=corners[:5])),
        call("a.d", Drawing(shape="mask")),
        call("a.e", Drawing(shape="depth")),
        call("a.f", Drawing(shape="placed", label="done")),
        call("a.g", reason="bad_argument"),
    ]
    drawn = made_row(
        "boppose", 901, 0.3, kind="pose", turns=[turn(*shapes)],
        target=str([*corners]), answer=str([*corners]), question_type="cuboid_corners",
    )  # fmt: skip
    return [hostile, drawn]


def wait_for(check: Callable[[], object], what: str) -> None:
    until = time.monotonic() + 20
    while not check():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.05)


def opened(browser: Any, run: Path, anchor: str = "") -> Any:
    look(browser, 1280)
    browser.get("about:blank")
    browser.get(f"{(run / 'report.html').as_uri()}{anchor and '#' + anchor}")
    wait_for(lambda: js(browser, "document.body.dataset.readyMs"), "the page")
    return browser


@pytest.fixture
def page(browser: Any, run: Path) -> Any:
    return opened(browser, run)


def js(page: Any, words: str) -> Any:
    return page.execute_script(f"return {words}")


def count(page: Any) -> str:
    return str(js(page, "document.querySelector('#count').textContent"))


def choose(page: Any, name: str, value: str) -> None:
    page.execute_script(
        "const field = document.querySelector('.filters').elements[arguments[0]];"
        "field.value = arguments[1]; field.dispatchEvent(new Event('change', {bubbles: true}));"
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(page).send_keys(key).perform()
        time.sleep(0.15)


OPEN = "document.querySelector('#list details[open]')"


def test_it_opens_without_network_or_errors(page: Any) -> None:
    total = 9 * NUM + 2
    assert count(page).startswith(f"{total} of {total} episodes")
    names = js(page, "performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in names if not name.startswith("data:")] == []
    assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []
    assert js(page, "document.querySelector('#list img').naturalWidth") > 100


def test_filters_narrow_and_combine(page: Any) -> None:
    choose(page, "benchmark", "reflocation")
    assert count(page) == f"{NUM} of {9 * NUM + 2} episodes"
    choose(page, "outcome", "wrong")
    wrong = int(count(page).split()[0])
    assert 0 < wrong < NUM
    assert "outcome=wrong" in js(page, "location.hash")
    choose(page, "outcome", "")
    choose(page, "sort", "slowest")
    choose(page, "benchmark", "")
    choose(page, "findings", "phantom_variable")
    assert count(page).startswith("1 of")
    choose(page, "findings", "")
    choose(page, "text", "ONERROR lamp_is_not_there")
    wait_for(lambda: count(page).startswith("0 of"), "nothing to fit")
    choose(page, "text", "OnError DATE")
    choose(page, "text", "onerror a/b#c")
    wait_for(lambda: count(page).startswith("1 of"), "the hostile episode")


def test_keys(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    press(page, "j")
    assert js(page, f"{OPEN} === document.querySelector('#list').firstElementChild")
    press(page, "j", "j", "k")
    assert js(page, f"[...document.querySelector('#list').children].indexOf({OPEN})") == 1
    assert js(page, f"document.activeElement === {OPEN}.querySelector('summary')")
    outline = js(page, "getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    press(page, Keys.ESCAPE)
    assert js(page, OPEN) is None
    press(page, Keys.ENTER)
    assert js(page, OPEN) is not None
    press(page, "/")
    assert js(page, "document.activeElement.name") == "text"
    press(page, "zzz-not-there", Keys.ENTER)
    assert count(page).startswith("0 of")
    press(page, "/", Keys.ESCAPE)
    assert count(page).startswith(f"{9 * NUM + 2} of")


def test_j_goes_on_to_the_next_page(page: Any) -> None:
    page.execute_script("document.querySelector('#list').lastElementChild.open = true")
    before = count(page)
    press(page, "j")
    assert "41 to 80" in count(page) and count(page) != before
    assert js(page, f"{OPEN} === document.querySelector('#list').firstElementChild")
    press(page, "k")
    assert count(page) == before
    page.execute_script("document.querySelector('.pages button[name=next]').click()")
    assert "41 to 80" in count(page)


def test_an_address_opens_its_episode(browser: Any, run: Path) -> None:
    page = opened(browser, run, "boppose/901/greedy/0")
    assert js(page, f"{OPEN}.one.id") == "901"
    assert js(page, f"{OPEN}.querySelectorAll('.step').length") == 9
    assert js(page, f"{OPEN}.querySelector('.over.truth') !== null")
    key = odd_rows()[0].key
    page = opened(browser, run, anchor_of(key))
    assert js(page, f"{OPEN}.one.id") == key.question_id
    page.execute_script("location.hash = 'boppose/902/greedy/0'")
    wait_for(lambda: "not in this run" in count(page), "the excuse")
    page = opened(browser, run, "?benchmark=boppose&error=reasoning")
    assert (
        "of" in count(page)
        and js(page, "document.querySelector('#list details').one.benchmark") == "boppose"
    )


def test_hostile_words_stay_words(browser: Any, run: Path) -> None:
    page = opened(browser, run, anchor_of(odd_rows()[0].key))
    assert js(page, "document.title").startswith("SpaceTools")
    assert js(page, "document.querySelector('img[src=x]')") is None
    assert "onerror=document.title" in js(page, f"{OPEN}.textContent")
    assert js(page, "document.querySelector('h1').textContent").startswith("tiny </script>")


def test_a_picture_that_is_gone_is_told(browser: Any, run: Path) -> None:
    page = opened(browser, run, "robospatial/1/greedy/0")
    assert "was not found" in js(page, f"{OPEN}.textContent")
    assert js(page, f"{OPEN}.querySelectorAll('.disc').length") > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Any, scheme: str) -> None:
    look(page, 390, scheme)
    for anchor in ("", "boppose/901/greedy/0", "bopgrasp/1/greedy/0", anchor_of(odd_rows()[0].key)):
        page.execute_script("location.hash = arguments[0]", anchor)
        time.sleep(0.3)
        assert js(page, "document.documentElement.scrollWidth") <= 390
    bright = js(page, "getComputedStyle(document.body).backgroundColor")
    assert (bright == "rgb(250, 248, 244)") == (scheme == "light")


def test_counts_of_errors_lead_to_their_episodes(page: Any) -> None:
    link = js(page, "document.querySelector('.split a').getAttribute('href')")
    page.execute_script("document.querySelector('.split a').click()")
    wait_for(lambda: not count(page).startswith(str(9 * NUM + 2)), "the filtered list")
    assert link.startswith("#?benchmark=")
    num = js(page, "document.querySelector('.split a').title").split()[-1]
    assert int(count(page).split()[0]) == int(num) > 0


@pytest.fixture(scope="module")
def poisoned_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poisoned")
    rows = [*made_rows(folder / "images", num=3), *odd_rows()]
    finding = Finding(kind="infrastructure", key=rows[4].key, words="sam2: out of memory")
    verdict = Verdict(findings=(finding,), reasons=("refplacement: machinery broke in 1 of 3",))
    publish(folder, rows, replace(FACTS, verdict=verdict))
    return folder


def test_a_poisoned_runs_page_and_results_tell_no_score(browser: Any, poisoned_run: Path) -> None:
    text = (poisoned_run / "report.html").read_text()
    packed = text.split('id="episodes-data">')[1].split("<")[0]
    episodes = json.loads(zlib.decompress(base64.b64decode(packed)))
    telling = {"score", "outcome", "error", "why", "parts", "truth", "target"}
    assert len(episodes) == 3 * 9 + 2 and not telling & {name for one in episodes for name in one}
    assert 'id="errors"' not in text and 'value="worst"' not in text
    for one in json.loads((poisoned_run / "results.json").read_text())["benchmarks"]:
        assert one["errors"] is None and one["stability"] is None
        assert {each["mean_score"] for each in one["chains"]} == {None}
        for each in (*one["figures"], *one["types"]):
            assert each["value"] is None
    page = opened(browser, poisoned_run, "boppose/901/greedy/0")
    assert "No scores" in js(page, "document.querySelector('.gate').textContent")
    assert "cup" in js(page, f"{OPEN}.textContent")
    assert not re.search(r"right|wrong \(|score [01]|undefined", js(page, f"{OPEN}.textContent"))
    assert js(page, "document.querySelectorAll('.badge .verdict').length") == 0
    assert js(page, "document.querySelector('.filters').elements.outcome.closest('label').hidden")
    choose(page, "findings", "infrastructure")
    assert count(page) == f"1 of {3 * 9 + 2} episodes"
    assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []


def test_a_rewrite_needs_no_picture(run: Path, tmp_path: Path) -> None:
    """Thumbnails are kept: the same page comes out where the pictures have gone."""
    folder = tmp_path / "moved"
    shutil.copytree(run, folder)
    rows = [*made_rows(tmp_path / "again", num=2)]
    publish(folder, rows, FACTS)
    before = (folder / "report.html").read_text()
    shutil.rmtree(tmp_path / "again")
    publish(folder, rows, FACTS)
    assert (folder / "report.html").read_text() == before
    assert before.count("\n") > len(rows)
