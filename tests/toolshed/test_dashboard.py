"""The dashboard: what it tells, and how it looks and works in a browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import look
from tests.toolshed.fake_tools import HERE, picture
from toolshed.config import ToolshedConfig, parse_tools, replaced
from toolshed.hosting import served_families
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet
from toolshed.types import Json, ToolCall

NAMESPACE = "dashboard-test"
TOKEN = "a token; with 'odd' characters"
HOSTILE = "<img src=x onerror=document.title='broken'>"
pytestmark = pytest.mark.ray


# ---- a live one ----------------------------------------------------------------------------


def config(folder: Path) -> ToolshedConfig:
    trouble: dict[str, Json] = {
        "backend": f"{HERE}:Trouble",
        "arguments": {"folder": str(folder)},
        "restarts": 0,
        "timeout_s": 5.0,
        "cache": False,
    }
    return parse_tools(
        {
            "host": "ray",
            "namespace": NAMESPACE,
            "depth_estimator": {"backend": f"{HERE}:FakeDepth", "process": "fakes"},
            "vlm": {"backend": f"{HERE}:FakePointing", "process": "fakes"},
            "trouble": trouble,
        }
    )


@pytest.fixture(scope="module")
def shed(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolshed]:
    from toolshed.serving.router import RayHost

    folder = tmp_path_factory.mktemp("trouble")
    served = config(folder)
    host = RayHost(served, served_families(served, ToolSet.of(served)), serve=True)
    try:
        with Toolshed.open(replaced(served, {"ray_address": ray_cluster})) as opened:
            yield opened
    finally:
        host.close()


def make_calls(shed: Toolshed) -> None:
    session = shed.session([picture(120, 200)])

    def call(name: str, **arguments: Json) -> None:
        session.call_now(ToolCall(id="1", name=name, arguments=arguments))

    call("depth_estimator.estimate_depth", image_index=0)
    call("vlm.detect_one", obj_name=HOSTILE, image_index=0)
    call("vlm.detect_all", obj_name="ghost", image_index=0)
    call("trouble.bug")
    call("made.up")


@pytest.fixture(scope="module", params=[None, TOKEN], ids=["open", "token"])
def any_server(request: pytest.FixtureRequest, shed: Toolshed, ray_cluster: str) -> Iterator[str]:
    yield from serve(ray_cluster, request.param)


@pytest.fixture(scope="module")
def server(shed: Toolshed, ray_cluster: str) -> Iterator[str]:
    yield from serve(ray_cluster, None)


def serve(address: str, token: str | None) -> Iterator[str]:
    """The address of a dashboard in a process of its own, which has to end well."""
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
    words = ["--address", address, "--namespace", NAMESPACE, "--port", "0"]
    words += [] if token is None else ["--host", "0.0.0.0", "--token", token]
    with subprocess.Popen(
        [sys.executable, "-m", "toolshed.cli", "dashboard", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline()
        assert said.startswith("dashboard: http://"), said + process.stderr.read()
        yield said.removeprefix("dashboard: ").strip().replace("0.0.0.0", "127.0.0.1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    opener = urllib.request.build_opener(Stay)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def wait_for(found: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        value = found()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within {seconds} s")


ROUTES = (
    "/",
    "/page.css",
    "/page.js",
    "/events",
    "/overview",
    "/pictures/1.jpg",
    "/nowhere",
    "/docs",
)


def test_every_route_asks_who_is_there(any_server: str, request: pytest.FixtureRequest) -> None:
    if "token" not in request.node.callspec.id:
        for route in ROUTES:
            assert get(any_server + route, Host="evil.example")[0] == 403
        assert get(any_server + "/", Host="localhost:1")[0] == 200
        return
    for route in ROUTES:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "toolshed_1=x"}):
            status, told, body = get(any_server + route, **headers)
            assert status == 401 and "default-src 'none'" in told["content-security-policy"]
            assert NAMESPACE.encode() not in body
        assert get(f"{any_server}{route}?token=wrong")[0] == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert json.loads(get(any_server + "/overview", **right)[2])["namespace"] == NAMESPACE
    assert get(any_server + "/docs", **right)[0] == 404
    quoted = urllib.parse.quote(TOKEN)
    status, told, _ = get(f"{any_server}//evil.example/?token={quoted}")
    assert (status, told["location"]) == (303, "/evil.example/")
    status, told, _ = get(f"{any_server}/overview?token={quoted}&x=1")
    assert (status, told["location"]) == (303, "/overview?x=1")
    assert "HttpOnly" in told["set-cookie"] and "SameSite=strict" in told["set-cookie"]
    cookie = told["set-cookie"].split("; HttpOnly")[0].rsplit("; Path", 1)[0]
    assert get(any_server + "/overview", Cookie=cookie)[0] == 200


def overview(server: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(get(server + "/overview")[2])
    return told


def test_it_tells_of_calls_replicas_and_reasons(server: str, shed: Toolshed) -> None:
    def counted() -> Any:
        """Callers and replicas tell their counts each in their own time."""
        told = overview(server)
        fakes = next(each for each in told["groups"] if each["key"] == "fakes")
        has_picture = any(each["has_picture"] for each in told["recent"])
        num_calls = fakes["replicas"][0]["health"]["num_calls"]
        return len(told["tools"]) >= 5 and has_picture and num_calls >= 1 and told

    overview(server)
    time.sleep(1.5)
    make_calls(shed)
    told = wait_for(counted, "calls with pictures, and a replica that counted one")
    by_name = {each["name"]: each for each in told["tools"]}
    assert by_name["trouble.bug"]["num"]["failed"] >= 1
    assert ["failed", "error", by_name["trouble.bug"]["num"]["failed"]] in by_name["trouble.bug"][
        "reasons"
    ]
    assert by_name["vlm.detect_all"]["num"]["refused"] >= 1
    depth = by_name["depth_estimator.estimate_depth"]
    assert 0 < depth["latency"]["ok"]["p50"] <= depth["latency"]["ok"]["p99"]
    assert list(by_name)[-1] == "(unknown tool)" and "made.up" not in by_name
    groups = {each["key"]: each for each in told["groups"]}
    assert groups["fakes"]["families"] == "depth_estimator, vlm"
    (replica,) = groups["fakes"]["replicas"]
    assert replica["state"] == "ready"
    assert sum(sum(row[1:]) for row in told["history"]) >= 5
    number = next(each["number"] for each in told["recent"] if each["has_picture"])
    status, headers, body = get(f"{server}/pictures/{number}.jpg")
    assert (status, headers["content-type"]) == (200, "image/jpeg") and body.startswith(b"\xff\xd8")
    assert get(f"{server}/pictures/1.jpg")[0] == 404


def test_news_keep_coming(server: str, shed: Toolshed) -> None:
    with urllib.request.urlopen(server + "/events", timeout=20) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        messages: list[dict[str, Any]] = []
        while len(messages) < 3:
            line = stream.readline().decode()
            if line.startswith("data: "):
                messages.append(json.loads(line[6:]))
    assert "bucket_ends_ms" in messages[0] and "bucket_ends_ms" not in messages[1]
    assert messages[0]["now_s"] < messages[1]["now_s"] < messages[2]["now_s"]
    known = [each["number"] for message in messages for each in message["recent"]]
    assert len(known) == len(set(known))


# ---- in a browser --------------------------------------------------------------------------


@pytest.fixture
def page(browser: Any, server: str, shed: Toolshed) -> Any:
    look(browser, 1280)
    browser.get(server)
    wait_for(lambda: browser.execute_script("return !!document.querySelector('.live.on')"), "news")
    make_calls(shed)
    wait_for(lambda: text_of(browser, "#calls").count("made.up") or has_calls(browser), "calls")
    return browser


def text_of(page: Any, selector: str) -> str:
    found: str = page.execute_script(
        "return document.querySelector(arguments[0])?.innerText ?? ''", selector
    )
    return found


def has_calls(page: Any) -> bool:
    count = "return document.querySelectorAll('.call').length"
    return bool(page.execute_script(count) >= 5)


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def test_the_page_shows_it_all_and_needs_nobody_else(page: Any, server: str) -> None:
    assert "depth_estimator · vlm" in text_of(page, "#groups")
    assert "ready" in text_of(page, "#groups")
    assert "trouble.bug" in text_of(page, "#tools")
    wait_for(lambda: "failed: error" in text_of(page, "#calls"), "the failed call")
    wait_for(
        lambda: page.execute_script(
            "const all = [...document.querySelectorAll('img.thumb')];"
            "return all.some((each) => each.naturalWidth > 50)"
        ),
        "a picture",
    )
    names = "return performance.getEntriesByType('resource').map((each) => each.name)"
    assert all(name.startswith((server, "data:")) for name in page.execute_script(names))
    assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []


def test_hostile_words_stay_words(page: Any) -> None:
    wait_for(lambda: "onerror" in text_of(page, "#calls"), "the hostile reply")
    assert page.execute_script("return document.querySelector('#calls img[src=x]')") is None
    assert page.title == "Toolshed"


def test_keys_are_enough(page: Any) -> None:
    focused = "return document.activeElement.closest('.call')?.dataset.key"
    press(page, "j")
    first = page.execute_script(focused)
    press(page, "j")
    second = page.execute_script(focused)
    assert first and second and first != second
    press(page, "k", "\ue007")
    opened = "return document.querySelector('details[open]')?.dataset.key"
    assert page.execute_script(opened) == first
    wait_for(lambda: "program" in text_of(page, "details[open] .more"), "the details")
    press(page, "\ue00c")
    assert page.execute_script(opened) is None
    press(page, "p")
    assert text_of(page, "#pause") == "Go on"
    press(page, "p", "f")
    assert page.execute_script("return document.activeElement.id") == "tool"


def test_calls_do_not_move_while_somebody_reads(page: Any, shed: Toolshed) -> None:
    press(page, "j", "\ue007")
    before = page.execute_script("return document.querySelectorAll('.call').length")
    make_calls(shed)
    hidden = "return document.querySelector('#held').hidden"
    wait_for(lambda: not page.execute_script(hidden), "the word of what is held back")
    assert "new call" in text_of(page, "#held")
    assert page.execute_script("return document.querySelectorAll('.call').length") == before
    page.execute_script("document.querySelector('#held').click()")
    assert page.execute_script(hidden)
    assert page.execute_script("return document.querySelectorAll('.call').length") > before


def test_filters_choose_calls_and_tools(page: Any) -> None:
    shown = (
        "return [...document.querySelectorAll('.call')].filter((each) => !each.hidden)"
        ".map((each) => [each.dataset.tool, each.dataset.outcome])"
    )
    page.execute_script("document.querySelector('input[value=failed]').click()")
    found = page.execute_script(shown)
    assert found and {outcome for _, outcome in found} == {"failed"}
    page.execute_script("document.querySelector('#filters input[value=\"\"]').click()")
    page.execute_script(
        "const menu = document.querySelector('#tool'); menu.value = 'vlm.detect_one';"
        "menu.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    assert {name for name, _ in page.execute_script(shown)} == {"vlm.detect_one"}
    names = "return [...document.querySelectorAll('.tool code')].map((each) => each.innerText)"
    assert page.execute_script(names) == ["vlm.detect_one"]


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    look(page, width)
    press(page, "j", "\ue007")
    page.execute_script("document.querySelector('details')?.setAttribute('open', '')")
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert page.execute_script(wide) == [width, width]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_readable_in_both_lights(page: Any, scheme: str) -> None:
    look(page, 390, scheme)
    colours = page.execute_script(
        "const of = (each) => getComputedStyle(document.querySelector(each));"
        "return [of('body').backgroundColor, of('body').color, of('.where').color,"
        " of('.verdict.failed').color, of('.verdict.ok').color, of('.verdict.refused').color]"
    )
    paper, *inks = [tuple(map(int, each[4:-1].split(","))) for each in colours]
    assert (sum(paper) > 600) == (scheme == "light")
    assert all(contrast(paper, ink) >= 4.5 for ink in inks), colours


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Ratio of two colours after the accessibility guidelines of the web."""

    def light(colour: tuple[int, ...]) -> float:
        shares = [each / 255 for each in colour]
        linear = [
            each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Last, because it ends a replica for good.
def test_a_dead_replica_says_why(page: Any, shed: Toolshed) -> None:
    told = overview(page.current_url.rstrip("/"))
    (trouble,) = [each for each in told["groups"] if each["key"] == "trouble"]
    os.kill(trouble["replicas"][0]["health"]["process_id"], signal.SIGKILL)
    wait_for(lambda: "dead" in text_of(page, "#groups"), "the dead replica")
    assert "replica_died" in text_of(page, "#groups")
    assert "trouble: replica 0 is dead" in text_of(page, "#problem")
