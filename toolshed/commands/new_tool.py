"""``toolshed new-tool``: a contract, a back-end, a tool YAML and a test that work as they are."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template

from toolshed.config import ToolshedConfig
from toolshed.errors import ConfigError
from toolshed.registry import FAMILIES

_NAME = re.compile(r"[a-z]([a-z0-9]|_(?!_))*(?<!_)")

_LONGEST_NAME = 32
"""With a method behind it a name must fit into the 64 characters that most interfaces take."""

_CONTRACT = '''\
"""What a model sees of these tools, and what a back-end of them has to answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, tool
from toolshed.types import Detections, ToolImage


class $title(Family):
    """Finds places in a picture by their brightness."""

    name: ClassVar[str] = "$name"

    @tool
    @abstractmethod
    def find_brightest(self, image: ToolImage) -> Detections:
        """Point at the brightest place of an image.

        Returns a list with one (x, y) point between 0 and 1, measured from the top left corner.

        Args:
            image: Which image of the conversation to look at, counted from 0.
        """
'''

_LIGHT = '''\
"""A back-end that needs numpy alone."""

from __future__ import annotations

import numpy as np

from $name.contract import $title
from toolshed.errors import ToolRefusal
from toolshed.types import Detections, Point, ToolImage


class Light$title($title):
    def find_brightest(self, image: ToolImage) -> Detections:
        grey = image.pixels.mean(axis=2)
        if grey.max() == grey.min():
            raise ToolRefusal("no_contrast", "The picture has one brightness everywhere.")
        row, column = np.unravel_index(int(grey.argmax()), grey.shape)
        point = Point(u=(int(column) + 0.5) / image.width, v=(int(row) + 0.5) / image.height)
        return Detections(obj_name="brightest place", points=(point,))
'''

_YAML = """\
# The tools of $name. A key is a family; all keys of a family: docs/TOOLSHED.md.
$name:
  backend: $name.light:Light$title
"""

_TEST = '''\
"""The tools at work: right answers, refusals, and what a model is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from toolshed import Toolshed
from toolshed.images import make_image
from toolshed.types import Detections, Json, ToolCall, ToolResult

CONFIG = Path(__file__).with_name("tools.yaml")


def ask(pixels: np.ndarray, method: str, **arguments: Json) -> ToolResult:
    arguments["image_index"] = 0
    call = ToolCall(id="0", name=f"$name.{method}", arguments=arguments)
    with Toolshed.open(CONFIG, host="local") as shed:
        return asyncio.run(shed.session([make_image(pixels)]).call(call))


def test_the_brightest_place_is_found() -> None:
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[2, 15] = 255
    result = ask(pixels, "find_brightest")
    assert result.status == "ok" and isinstance(result.value, Detections)
    (point,) = result.value.points
    assert (point.u, point.v) == (15.5 / 20, 2.5 / 10)


def test_a_picture_without_contrast_is_refused() -> None:
    result = ask(np.full((4, 4, 3), 7, dtype=np.uint8), "find_brightest")
    assert (result.status, result.reason) == ("refused", "no_contrast")


def test_every_tool_tells_a_model_what_it_is_for() -> None:
    with Toolshed.open(CONFIG, host="local") as shed:
        for spec in shed.specs:
            assert spec.family == "$name" and spec.description
'''

_FILES = {
    "__init__.py": "",
    "contract.py": _CONTRACT,
    "light.py": _LIGHT,
    "tools.yaml": _YAML,
    "test_$name.py": _TEST,
}


def main(arguments: Sequence[str]) -> int:
    """Write the folder of a tool and say what to do next."""
    options = _parser().parse_args(arguments)
    _check(options.name, options.folder)
    target = options.folder / options.name
    title = "".join(part.capitalize() for part in options.name.split("_"))
    # The last folder is made; a slip further up is not.
    if not (options.folder.is_dir() or options.folder.parent.is_dir()):
        raise ConfigError(f"there is no folder {options.folder.parent}; correct --folder")
    options.folder.mkdir(exist_ok=True)
    # Written beside its place, so that what fails half-way is not in the way of the next try.
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".new-tool-") as place:
        written = Path(place) / options.name
        written.mkdir()
        for file, text in _FILES.items():
            path = written / Template(file).substitute(name=options.name)
            path.write_text(Template(text).substitute(name=options.name, title=title), "utf-8")
        written.rename(target)
    print(_next_steps(options.name, options.folder, target))
    return 0


def _check(name: str, folder: Path) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{name!r} is no name for tools; write a word of at most {_LONGEST_NAME} small "
            "letters, digits and single underscores, such as 'colour_meter'"
        )
    if name in FAMILIES or name in ToolshedConfig.model_fields:
        raise ConfigError(f"the name {name!r} is taken by Toolshed itself; choose another one")
    if (folder / name).exists():
        raise ConfigError(f"{folder / name} exists already; choose another name or --folder")
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(f"a Python package {name!r} is installed already; choose another name")


def _next_steps(name: str, folder: Path, target: Path) -> str:
    lines = [f"wrote {target}: contract.py, light.py, tools.yaml, test_{name}.py", "", "next:"]
    if folder != Path():
        lines.append(f"  cd {shlex.quote(str(folder))}")
    lines += [
        f"  python -m pytest {name}",
        f"  toolshed call {name}.find_brightest --config {name}/tools.yaml --image PICTURE",
        f"  toolshed serve {name}/tools.yaml",
        "then edit contract.py (what a model sees) and light.py (what answers)",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed new-tool",
        description="Write a contract, a back-end, a tool YAML and a test that work as they are.",
    )
    parser.add_argument("name", metavar="NAME", help="family name, such as 'colour_meter'")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where the folder NAME is made (default: here)"
    )
    return parser
