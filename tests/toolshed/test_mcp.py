"""The MCP server: sessions by handle, pictures from allowed places, and the SDK's own client."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolshed.errors import ConfigError, ToolRefusal
from toolshed.images import make_image
from toolshed.mcp.server import main
from toolshed.mcp.sessions import Pictures, Sessions
from toolshed.schemas import schemas_of
from toolshed.shed import Toolshed
from toolshed.tabletop.state import initial_state
from toolshed.tabletop.world import World
from toolshed.types import Json

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, its depth and a link that leads out; beside it a forbidden file."""
    outside = tmp_path_factory.mktemp("files")
    folder = outside / "allowed"
    folder.mkdir()
    image = World.from_state(initial_state(7)).capture().image()
    assert image.depth_mm is not None
    Image.fromarray(image.pixels).save(folder / "desk.png")
    Image.fromarray(image.depth_mm).save(folder / "desk.depth.png")
    Image.fromarray(image.pixels).save(outside / "secret.png")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "text.png").write_text("no picture")
    return folder


def given(folder: Path) -> dict[str, Json]:
    return {
        "image": str(folder / "desk.png"),
        "depth": str(folder / "desk.depth.png"),
        "focal_length_px": 700,
    }


# ---- without the SDK ------------------------------------------------------------------------


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def shed() -> Iterator[Toolshed]:
    with Toolshed.open("light", show=["vision_ops.index_at"]) as opened:
        yield opened


def test_handles_live_as_long_as_they_are_used(shed: Toolshed) -> None:
    clock = Clock()
    sessions = Sessions(shed, clock=clock)
    (first, session), (second, _) = sessions.open([], None), sessions.open([], None)
    assert first != second and re.fullmatch(r"session-[0-9a-f]{16}", first)
    clock.now_s = 60 * sessions.minutes - 1
    assert sessions.find(first) is session
    clock.now_s += 2
    assert sessions.find(first) is session
    with pytest.raises(ToolRefusal, match="has expired: nobody used it for 30 minutes") as caught:
        sessions.find(second)
    assert caught.value.reason == "expired_session" and len(sessions) == 1
    for wrong in ("session-0", 3, None):
        with pytest.raises(ToolRefusal, match="there is no session"):
            sessions.find(wrong)


def test_too_many_sessions_end_the_one_idle_for_longest(shed: Toolshed) -> None:
    sessions = Sessions(shed, max_sessions=2)
    first, _ = sessions.open([], None)
    second, _ = sessions.open([], None)
    sessions.find(first)
    sessions.open([], None)
    sessions.find(first)
    with pytest.raises(ToolRefusal, match="more than 2 were open"):
        sessions.find(second)


def admit(num_images: int, num_bytes: int) -> None:
    """As a server without limits."""


def bomb(folder: Path, *, damaged: bool = False) -> str:
    """A picture of 6 kB that takes 147 MB; damaged, its header says so, but it has no pixels."""
    file = io.BytesIO()
    Image.new("1", (7000, 7000)).save(file, format="PNG")
    content = file.getvalue()
    assert len(content) < 10_000
    place = folder / "bomb.png"
    place.write_bytes(content[:60] if damaged else content)
    return str(place)


def test_pictures_are_counted_decoded_before_anything_is_decoded(
    shed: Toolshed, tmp_path: Path
) -> None:
    sessions, reader = Sessions(shed), Pictures([tmp_path])
    two: list[Json] = [bomb(tmp_path, damaged=True)] * 2
    with pytest.raises(ToolRefusal) as caught:
        reader.read(two, partial(sessions.admit, None))
    # Whoever had decoded one of them would say that it is damaged.
    assert caught.value.reason == "too_large"
    assert "294000000 bytes" in caught.value.text and "256000000" in caught.value.text
    one = reader.read([bomb(tmp_path)], partial(sessions.admit, None))
    _, session = sessions.open(one, None)
    with pytest.raises(ToolRefusal, match=r"a session that has 147000000; allowed: 256000000"):
        reader.read(two[:1], partial(sessions.admit, session))
    with pytest.raises(ToolRefusal, match=r"got 256 pictures for a session that has 1"):
        sessions.admit(session, 256, 0)


def test_beyond_the_servers_bytes_the_sessions_idle_for_longest_end(shed: Toolshed) -> None:
    sessions = Sessions(shed, max_bytes=3000)
    image = make_image(np.zeros((20, 20, 3), np.uint8))
    first, session = sessions.open([image], None)
    empty, _ = sessions.open([], None)
    second, _ = sessions.open([image], None)
    sessions.find(first)
    sessions.admit(session, 1, 1200)
    assert sessions.find(first) is session and sessions.find(empty)
    with pytest.raises(ToolRefusal, match="took more than 3000 bytes"):
        sessions.find(second)


def test_pictures_come_from_allowed_folders_and_data_uris(pictures: Path) -> None:
    reader = Pictures([pictures])
    (image,) = reader.read([given(pictures)], admit)
    assert (image.width, image.focal_length_px) == (448, 700.0) and image.depth_mm is not None
    data = base64.b64encode((pictures / "desk.png").read_bytes()).decode()
    (same,) = Pictures([]).read([f"data:image/png;base64,{data}"], admit)
    assert (same.pixels == image.pixels).all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: str(folder.parent / "secret.png"), "outside of the folders allowed"),
        (lambda folder: str(folder / ".." / "secret.png"), "outside of the folders allowed"),
        (lambda folder: str(folder / "link.png"), "outside of the folders allowed"),
        (lambda folder: "/etc/passwd", "outside of the folders allowed"),
        (lambda folder: f"{folder}/desk.png\x00", "outside of the folders allowed"),
        (lambda folder: "http://example.org/a.png", "addresses are not fetched"),
        (lambda folder: f"file://{folder}/desk.png", "addresses are not fetched"),
        (lambda folder: str(folder / "text.png"), "cannot be read"),
        (lambda folder: str(folder / "missing.png"), "does not exist"),
        (lambda folder: str(folder), "is no regular file"),
        (lambda folder: "data:image/png;base64,AAAA", "cannot be read"),
        (lambda folder: {"image": str(folder / "desk.png"), "mask": "x"}, "no field 'mask'"),
        (lambda folder: {"depth": "x"}, "a picture is a path"),
        (lambda folder: {**given(folder), "focal_length_px": float("nan")}, "allowed: 1 to"),
        (lambda folder: {**given(folder), "focal_length_px": True}, "a number of pixels"),
        (lambda folder: {**given(folder), "depth": 3}, "a path or a data URI"),
        (lambda folder: {**given(folder), "depth": "/etc/passwd"}, "outside of the folders"),
        (lambda folder: 3, "a picture is a path"),
    ],
)
def test_other_places_are_refused(pictures: Path, make: Callable[[Path], Json], told: str) -> None:
    with pytest.raises(ToolRefusal, match=told):
        Pictures([pictures]).read([make(pictures)], admit)


def test_without_a_folder_no_file_is_read(pictures: Path) -> None:
    with pytest.raises(ToolRefusal, match="reads no files"):
        Pictures([]).read([str(pictures / "desk.png")], admit)
    with pytest.raises(ToolRefusal, match="list of at most 32"):
        Pictures([]).read("desk.png", admit)
    with pytest.raises(ConfigError, match="is no folder"):
        Pictures([pictures / "desk.png"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["light", "--http", "0.0.0.0:8000"], "can be reached from other machines"),
        (["light", "--http", "[::]:8000"], "can be reached from other machines"),
        (["light", "--http", "8000"], "no HOST:PORT"),
        (["light", "--http", "127.0.0.1:99999"], "no HOST:PORT"),
        (["light", "--token", "short"], "at least 16"),
        (["light", "--token", "@/nowhere"], "nowhere"),
    ],
)
def test_a_wrong_start_says_what_is_wrong(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        main(words)


# ---- with it --------------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return ["-m", "toolshed.cli", "serve", "--mcp", *words]


@asynccontextmanager
async def stdio(*words: str) -> AsyncIterator[Any]:
    """A client of a server that it starts itself."""
    mcp = pytest.importorskip("mcp")
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = mcp.StdioServerParameters(command=sys.executable, args=command(*words), env=env)
    async with asyncio.timeout(60), mcp.Client(server) as client:
        yield client


def texts(result: Any) -> list[str]:
    return [each.text for each in result.content if each.type == "text"]


def test_a_client_sees_the_tools_of_the_file_and_calls_them_in_a_session(pictures: Path) -> None:
    async def play() -> None:
        async with stdio("light", "--root", str(pictures)) as client:
            listed = (await client.list_tools()).tools
            expected: list[Any] = schemas_of("light", "mcp")
            assert [each.name for each in listed] == [each["name"] for each in expected]
            for shown, schema in zip(listed, expected, strict=True):
                assert "expire 30 minutes after" in shown.description
                inner = schema["inputSchema"]
                own = set(shown.input_schema["properties"]) - set(inner["properties"])
                stateful = shown.name.startswith("robot__")
                assert own == {"session", "images"} | ({"scene"} if stateful else set())
                assert shown.input_schema["required"] == inner["required"]

            first = await client.call_tool(
                "depth_estimator__estimate_depth", {"image_index": 0, "images": [given(pictures)]}
            )
            assert not first.is_error and texts(first)[0].startswith("Estimated depth map")
            summary = first.structured_content
            assert summary["variables"] == ["$depth_map", "$focal_length_px"]
            assert texts(first)[1] == f"session: {summary['session']}"
            asked = {"data": "$depth_map", "u": 0.5, "v": 0.5}
            read = await client.call_tool(
                "vision_ops__index_at", {**asked, "session": summary["session"]}
            )
            assert texts(read)[0].startswith("Pixel value at (0.500, 0.500) is 0.")
            alone = await client.call_tool("vision_ops__index_at", asked)
            assert alone.is_error and alone.structured_content["reason"] == "unknown_variable"

    asyncio.run(play())


def test_pictures_come_back_as_pictures() -> None:
    async def play() -> None:
        async with stdio("light") as client:
            result = await client.call_tool("robot__capture_image", {"scene": 7})
            (picture,) = [each for each in result.content if each.type == "image"]
            assert picture.mime_type == "image/png"
            assert base64.b64decode(picture.data).startswith(b"\x89PNG")
            session = result.structured_content["session"]
            asked = {"obj_name": "blue object", "image_index": 0, "session": session}
            found = await client.call_tool("roborefer__detect_one", asked)
            assert texts(found)[0].startswith("Detected 1 instance(s)")
            again = await client.call_tool("robot__capture_image", {"session": session})
            assert again.structured_content["num_images"] == 2

    asyncio.run(play())


def test_refusals_are_the_tools_errors_and_an_unknown_tool_is_the_protocols() -> None:
    mcp = pytest.importorskip("mcp")

    async def play() -> None:
        async with stdio("light") as client:
            wrong: list[tuple[dict[str, Json], str]] = [
                ({"obj_name": "cup"}, "needs image_index"),
                ({"obj_name": "cup", "image_index": 0}, "only 0 images"),
                ({"image_index": 0, "obj_name": "cup", "session": "s"}, "no session 's'"),
                ({"image_index": 0, "obj_name": "cup", "images": ["/etc/passwd"]}, "no files"),
                ({"image_index": 0, "obj_name": "cup", "scene": "x"}, "a whole number"),
                ({"image_index": 0, "obj_name": "cup", "x": 1}, "no argument"),
            ]
            for arguments, told in wrong:
                result = await client.call_tool("roborefer__detect_one", arguments)
                assert result.is_error and told in texts(result)[0], (arguments, texts(result))
                assert result.structured_content["status"] == "refused"
            for name in ("roborefer.detect_one", "nothing", "__init__"):
                with pytest.raises(mcp.MCPError, match="unknown tool"):
                    await client.call_tool(name, {})

    asyncio.run(play())


@pytest.fixture
def http_server() -> Iterator[str]:
    """Address of a server that wants a token."""
    pytest.importorskip("mcp")
    with subprocess.Popen(
        [sys.executable, *command("light", "--http", "127.0.0.1:0", "--token", TOKEN)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            assert line.startswith("tools: MCP at "), line
            yield line.split()[-1]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130


def test_http_wants_its_token(http_server: str) -> None:
    mcp = pytest.importorskip("mcp")
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    for headers in ({}, {"Authorization": "Bearer wrong-token-of-letters"}):
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(http_server, data=b"{}", headers=headers), timeout=20)
        assert caught.value.code == 401
        caught.value.close()

    async def play() -> None:
        import httpx2
        from mcp.client.streamable_http import streamable_http_client

        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30) as http,
            mcp.Client(streamable_http_client(http_server, http_client=http)) as client,
        ):
            result = await client.call_tool("robot__capture_image", {"scene": 7})
            assert not result.is_error

    asyncio.run(play())
