"""Pictures that a data set gives to verl's tools: looked at early, loaded once."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.toolshed.agent_loop import AgentData, method_tool
from toolshed import images
from toolshed.errors import ConfigError
from toolshed.images import ImageSource
from toolshed.integration import opened, trajectory
from toolshed.tabletop.state import initial_state
from toolshed.tabletop.world import World
from toolshed.types import ToolImage


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    opened.close_all()


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(World.from_state(initial_state(7)).capture().image().pixels)


@pytest.mark.parametrize("form", ["path", "uri"])
def test_pictures_are_loaded_once_a_trajectory_and_only_looked_at_before(
    scene: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    file = tmp_path / "a.png"
    scene.save(file)
    uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    given = {"images": [{"image": str(file) if form == "path" else uri}]}
    loaded: list[threading.Thread] = []

    def load_image(source: ImageSource) -> ToolImage:
        loaded.append(threading.current_thread())
        return images.load_image(source)

    monkeypatch.setattr(trajectory, "load_image", load_image)
    points = method_tool("roborefer.detect_one")

    async def one(data: AgentData) -> None:
        instance, _ = await points.create(create_kwargs=given)
        assert len(loaded) in (0, 1)
        asked: dict[str, object] = {"obj_name": "blue object", "image_index": 0}
        response, _, _ = await points.execute(instance, asked, agent_data=data)
        await points.release(instance)
        assert str(response.text).startswith("Detected")

    async def loop() -> None:
        for _ in range(3):
            await points.create(create_kwargs=given)
        assert not loaded
        data = AgentData(scene.resize((112, 84)))
        await asyncio.gather(*(one(data) for _ in range(4)))
        await one(data)

    asyncio.run(loop())
    assert len(loaded) == 1 and loaded[0] is not threading.main_thread()


def test_a_damaged_or_missing_picture_is_told_at_once(tmp_path: Path) -> None:
    points = method_tool("roborefer.detect_one")
    (tmp_path / "text.png").write_text("no picture")
    wrong: list[tuple[object, str]] = [
        (str(tmp_path / "none.png"), "does not exist"),
        ({"image": str(tmp_path / "text.png")}, "cannot be read"),
        ({"image": "data:image/png;base64,AAAA"}, "cannot be read"),
        ({"image": "a.png", "depth": 3}, "depth of a picture is a int"),
        (3, "no picture of a conversation"),
    ]
    for picture, told in wrong:
        with pytest.raises(ConfigError, match=told):
            asyncio.run(points.create(create_kwargs={"images": [picture]}))
