"""The library as others get it: a wheel in an empty environment, used from another folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.toolshed.printed_commands import ROOT
from toolshed.config import load_tools
from toolshed.tabletop.state import initial_state
from toolshed.tabletop.world import World


def test_every_package_of_the_library_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(settings["tool"]["setuptools"]["packages"])
    mapped = set(settings["tool"]["setuptools"]["package-dir"])
    folders = {
        ".".join(each.parent.relative_to(ROOT).parts)
        for each in (ROOT / "toolshed").rglob("__init__.py")
    }
    assert packages - mapped == folders


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """An environment with the wheel, and a folder that is no checkout."""

    environment: Path
    folder: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment, as a user of it would start it."""
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [str(self.environment / "bin" / words[0]), *words[1:]],
            cwd=self.folder,
            env={**env, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )


def pip_settings() -> dict[str, str]:
    """uv reads nothing of pip's; without them it would fetch what the machine offers itself."""
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^[^=]*\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    names = {
        "find-links": "UV_FIND_LINKS",
        "index-url": "UV_INDEX_URL",
        "extra-index-url": "UV_EXTRA_INDEX_URL",
        "cert": "SSL_CERT_FILE",
    }
    env = {names[key]: value for key, value in found.items() if key in names}
    env["UV_FIND_LINKS"] = env.get("UV_FIND_LINKS", "").replace(" ", ",")
    return {"UV_INDEX_STRATEGY": "unsafe-best-match", **{k: v for k, v in env.items() if v}}


def make(command: Sequence[str | Path], **env: str) -> None:
    words = list(map(str, command))
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("wheel")
    # A copy, because setuptools builds in the folder that it is given.
    source = place / "source"
    kept = shutil.ignore_patterns(".git", ".venv", ".envs", "runs", "build", "*.egg-info", "tests")
    shutil.copytree(ROOT, source, ignore=kept)
    pip = [sys.executable, "-m", "pip"]
    make([*pip, "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", place, source])
    (wheel,) = place.glob("spacetools-*.whl")
    environment, wanted = place / "env", f"{wheel}[all]"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None:
        make([uv, "venv", "-q", "--python", sys.executable, environment])
        python = environment / "bin" / "python"
        make([uv, "pip", "install", "-q", "--python", python, wanted], **pip_settings())
    else:
        make([sys.executable, "-m", "venv", environment])
        make([environment / "bin" / "python", "-m", "pip", "install", "-q", wanted])
    folder = place / "elsewhere"
    folder.mkdir()
    image = World.from_state(initial_state(7)).capture().image()
    assert image.depth_mm is not None
    Image.fromarray(image.pixels).save(folder / "desk.png")
    Image.fromarray(image.depth_mm).save(folder / "desk.depth.png")
    return Installed(environment=environment, folder=folder)


ONE_CALL_PER_FAMILY = """
import asyncio, json
from toolshed import ImageSource, Toolshed, ToolCall, load_image
picture = load_image(ImageSource(image="desk.png", depth="desk.depth.png", focal_length_px=700.0))
cloud = {"point_cloud": "$point_cloud", "mask": "$segmentation_mask"}
cloud["focal_length_px"] = "$focal_length_px"
CALLS = [
    ("roborefer.detect_one", {"obj_name": "blue object", "image_index": 0}),
    ("vlm.detect_one", {"obj_name": "blue object", "image_index": 0}),
    ("sam2.segment_from_points", {"points": "$blue_object_detections", "image_index": 0}),
    ("depth_estimator.estimate_depth_with_pointcloud", {"image_index": 0}),
    ("vision_ops.index_at", {"data": "$depth_map", "u": 0.5, "v": 0.5}),
    ("bounding_box.compute_bbox", cloud),
    ("grasp_generator.compute_grasp", {**cloud, "image_index": 0}),
    ("robot.execute_grasp", {"grasp_pose": "$grasp_pose"}),
]

async def play(session):
    for name, arguments in CALLS:
        result = await session.call(ToolCall(id="0", name=name, arguments=arguments))
        print(json.dumps([name.partition(".")[0], result.status, result.text]))

with Toolshed.open("light", host="local") as shed:
    asyncio.run(play(shed.session([picture], scene=7)))
"""


@pytest.mark.slow
def test_every_family_answers(installed: Installed) -> None:
    done = installed.run("python", "-c", ONE_CALL_PER_FAMILY)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {status for _, status, _ in rows} == {"ok"}, rows
    assert {family for family, _, _ in rows} == set(load_tools("light").families)


@pytest.mark.slow
def test_the_command_is_there_and_finds_the_shipped_configs(installed: Installed) -> None:
    done = installed.run(
        "toolshed", "call", "roborefer.detect_one", "obj_name=blue object", "--image", "desk.png"
    )
    assert done.returncode == 0 and done.stdout.startswith("Detected 1 instance(s)"), done.stderr
    assert (installed.folder / "desk.roborefer.png").is_file()
    done = installed.run("toolshed", "schemas", "v2", "--format", "mcp")
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 17
    done = installed.run("toolshed", "doctor")
    assert done.returncode == 0, done.stderr
    missing = re.findall(r"^\[\w+\] +missing", done.stdout, re.MULTILINE)
    assert not missing and str(installed.environment) in done.stdout
    assert installed.run("python", "-m", "toolshed.cli", "schemas", "light").returncode == 0


@pytest.mark.slow
def test_the_doctor_of_the_environments_runs(installed: Installed) -> None:
    done = installed.run("toolshed", "env", "doctor")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_tool_is_made_and_called(installed: Installed) -> None:
    done = installed.run("toolshed", "new-tool", "meter")
    assert done.returncode == 0, done.stderr
    config = ["--config", "meter/tools.yaml", "--image", "desk.png"]
    done = installed.run("toolshed", "call", "meter.find_brightest", *config)
    assert done.returncode == 0 and "brightest place" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_mcp_server_starts(installed: Installed) -> None:
    script = (
        "import asyncio, sys, mcp\n"
        "async def play():\n"
        "    words = ['-m', 'toolshed.cli', 'serve', '--mcp', 'light']\n"
        "    server = mcp.StdioServerParameters(command=sys.executable, args=words)\n"
        "    async with mcp.Client(server) as client:\n"
        "        print(len((await client.list_tools()).tools))\n"
        "asyncio.run(play())"
    )
    done = installed.run("python", "-c", script)
    assert (done.returncode, done.stdout) == (0, "17\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("room", ["sft", "rl"])
def test_the_other_rooms_stay_at_home(installed: Installed, room: str) -> None:
    done = installed.run("python", "-c", f"import {room}")
    assert done.returncode == 1 and f"No module named '{room}'" in done.stderr
