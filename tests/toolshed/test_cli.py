"""The command line: what users type, what they see, and whose fault it was."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolshed.cli import COMMANDS, main
from toolshed.commands import doctor
from toolshed.sandbox import levels
from toolshed.serving.registry import Registry, SeatReport
from toolshed.tabletop.state import initial_state
from toolshed.tabletop.world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a picture and its depth."""
    image = World.from_state(initial_state(7)).capture().image()
    assert image.depth_mm is not None
    Image.fromarray(image.pixels).save(tmp_path / "desk.png")
    Image.fromarray(image.depth_mm).save(tmp_path / "desk.depth.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(file: str) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


# ---- call -----------------------------------------------------------------------------------


def test_a_picture_in_the_line_itself_is_no_file_to_be_spared(desk: Path) -> None:
    payload = base64.b64encode((desk / "desk.png").read_bytes()).decode()
    words = ["call", "roborefer.detect_one", "obj_name=blue object", "--local"]
    words += ["--image", f"data:image/png;base64,{payload}", "--out", "drawn.png"]
    assert [main(words), main(words)] == [0, 0]


def test_a_call_prints_the_reply_and_draws_what_came_back(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["call", "roborefer.detect_one", "obj_name=blue object", "--image", "desk.png"]) == 0
    )
    out, told = capsys.readouterr()
    found = re.fullmatch(r"Detected 1 instance\(s\) of 'blue object': \[\((\S+), (\S+)\)\]\n", out)
    assert found, out
    assert re.search(r"^roborefer.detect_one: ok in [\d.]+ ms \(queue .*encode", told, re.MULTILINE)
    assert "drawn in desk.roborefer.png" in told
    before, after = pixels("desk.png"), pixels("desk.roborefer.png")
    assert after.shape == before.shape
    column, row = int(float(found[1]) * 448), int(float(found[2]) * 336)
    red, green, _ = after[row, column]
    assert red > 180 and green < 100
    changed = np.abs(after - before).max(axis=2) > 60
    assert 0 < changed.mean() < 0.02


def test_calls_of_one_line_share_variables_and_pictures(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["call", "depth_estimator.estimate_depth", "--image", "desk.png"]
    words += ["--depth", "desk.depth.png", "--focal", "700"]
    words += ["--", "vision_ops.index_at", "data=$depth_map", "u=.5", "v=0.5", "--out", "out/x.png"]
    assert main(words) == 0
    out, told = capsys.readouterr()
    assert out.splitlines()[1].startswith("Pixel value at (0.500, 0.500) is 0.")
    assert "kept $depth_map, $focal_length_px" in told and "drawn in out/x.png" in told
    assert pixels("out/x.png").shape == (336, 448, 3)
    # The depth picture with its scale is wider; this is the place that was read.
    assert not (desk / "desk.vision_ops.png").exists()


def test_the_robots_world_is_named_by_its_seed(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["call", "robot.capture_image", "--scene", "7"]
    assert main([*words, "--", "roborefer.detect_one", "obj_name=blue object"]) == 0
    out, told = capsys.readouterr()
    assert out.splitlines()[0] == "Captured image: 448×336 pixels."
    assert out.splitlines()[1].startswith("Detected 1 instance(s) of 'blue object'")
    assert "drawn in picture.roborefer.png" in told
    assert main(["call", "robot.capture_image"]) == 2
    assert "no robot in this conversation" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["true", "3", "[1]"])
def test_text_stays_text(desk: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["call", "roborefer.detect_one", f"obj_name={text}", "--image", "desk.png"]) == 2
    assert capsys.readouterr().out == f"Detected 0 instance(s) of '{text}': []\n"


def test_a_line_ends_with_the_first_call_that_is_refused(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["call", "roborefer.detect_one", "obj_name=unicorn", "--image", "desk.png", "--"]
    assert main([*words, "roborefer.detect_one", "obj_name=blue object"]) == 2
    out, told = capsys.readouterr()
    assert len(out.splitlines()) == 1 and "refused (not_found)" in told and "drawn" not in told


def test_an_index_is_wanted_where_there_is_a_choice(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["call", "roborefer.detect_one", "obj_name=blue object"]
    words += ["--image", "desk.png", "--image", "desk.png"]
    assert main(words) == 2
    assert "needs image_index" in capsys.readouterr().out
    assert main([*words, "image_index=1"]) == 0


def test_a_machine_that_fails_has_its_own_exit_code(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "trouble.yaml").write_text(
        "trouble: {backend: 'tests.toolshed.fake_tools:Trouble', arguments: {folder: .}}"
    )
    assert main(["call", "trouble.starve", "--config", "trouble.yaml"]) == 3
    out, told = capsys.readouterr()
    assert out == "" and "failed (out_of_memory)" in told and "error: starve: too large" in told


SEEN = ["call", "roborefer.detect_one", "obj_name=blue object", "--image", "desk.png"]
WRONG: list[tuple[list[str], str]] = [
    (["cal"], "unknown command 'cal'; did you mean 'call'?"),
    (["call", "roborefr.detect_one"], "did you mean 'roborefer.detect_one'?"),
    (["call", "roborefer.detect_on"], "did you mean 'roborefer.detect_one'?"),
    (["call", "roborefer.detect_one", "x"], "write key=value"),
    (["call", "roborefer.detect_one", "x=1", "x=2"], "given twice"),
    (["call", "roborefer.detect_one", "--config", "ligth"], "did you mean 'light'?"),
    (["call", "roborefer.detect_one", "--image", "no.png"], "no.png does not exist"),
    (["call", "roborefer.detect_one", "--depth", "desk.depth.png"], "1 depth images for 0"),
    ([*SEEN, "--out", "/proc/x.png"], "cannot be saved"),
    (["call", "roborefer.detect_one", "--config", "v1"], "toolshed env create roborefer"),
    (["schemas", "ligth"], "did you mean 'light'?"),
    (["schemas", "no/such.yaml"], "does not exist"),
    (["new-tool", "Name"], "is no name for tools"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "told"), WRONG)
def test_a_users_mistake_is_one_sentence(
    desk: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and told in lines[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["call"], "required: FAMILY.METHOD"),
        (["schemas"], "required: CONFIG"),
        (["schemas", "light", "--format", "opnai"], "choose from"),
        (["scale", "roborefer", "-1"], "less than 0"),
        (["scale", "roborefer", "many"], "no whole number"),
        (["drain", "roborefer"], "required: INDEX"),
        (["status", "--address", "x", "--adress", "x"], "unrecognized arguments"),
    ],
)
def test_a_line_that_cannot_be_read_says_how_it_is_written(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert told in shown and f"usage: toolshed {words[0]}" in shown


# ---- help -----------------------------------------------------------------------------------


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^  ([a-z-]+)  +\S", shown, re.MULTILINE) == list(COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: toolshed {command}") and "  -h, --help" in shown


def test_the_mcp_server_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--mcp", "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: toolshed serve --mcp")


# ---- running tools --------------------------------------------------------------------------


SEATS = Registry(
    version=1,
    seats=(
        SeatReport(group="a", index=0, name="x", state="ready", since_s=3.0, num_restarts=0),
        SeatReport(
            group="a",
            index=1,
            name="y",
            state="down",
            since_s=1.0,
            num_restarts=2,
            reason="died while loading",
        ),
    ),
)


@pytest.mark.parametrize(
    ("words", "asked", "told"),
    [
        (["status", "--address", "a:1"], ("a:1", "toolshed"), "a 1      down   1 s  2"),
        (["status", "--address", "a:1"], ("a:1", "toolshed"), "a 1: died while loading"),
        (["status", "--address", "a", "--json"], ("a", "toolshed"), '"state": "down"'),
        (["scale", "b", "3", "--address", "a"], ("a", "b", 3, "toolshed"), "b: 3 replicas"),
        (["stop", "--address", "a", "--namespace", "n"], ("a", "n"), "stopped"),
    ],
)
def test_running_tools_are_asked_what_was_typed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    asked: tuple[object, ...],
    told: str,
) -> None:
    """Words alone; running tools are asked for real where docs/ADD_A_TOOL.md is followed."""
    calls = []

    def noted(*given: object) -> Registry:
        calls.append(given)
        return SEATS

    module = importlib.import_module(f"toolshed.commands.{words[0]}")
    monkeypatch.setattr(module, words[0], noted)
    assert main(words) == 0
    assert calls == [asked] and told in capsys.readouterr().out


# ---- doctor ---------------------------------------------------------------------------------


def test_the_doctor_sees_what_there_is_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "ray", ("no_such_package",))
    assert main(["doctor", "--json"]) == 0
    rows = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert rows["python"]["found"].startswith(".".join(map(str, sys.version_info[:2])))
    assert rows["toolshed"]["found"] == str(ROOT / "toolshed")
    assert "mujoco" in rows["[light]"]["found"]
    assert rows["[ray]"] == {
        "name": "[ray]",
        "found": "",
        "remedy": "pip install 'spacetools[ray]'",
    }


def test_the_doctor_knows_every_extra_of_the_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(extras) - {"all", "train", "wandb", "trackio", "dev"}


def test_the_doctor_tells_how_to_get_a_sandbox_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(levels, "SANDBOXES", ())
    assert main(["doctor", "--json"]) == 0
    (row,) = [each for each in json.loads(capsys.readouterr().out) if each["name"] == "sandbox"]
    assert row["found"] == "" and "apt-get install bubblewrap" in row["remedy"]
    assert "cannot be had on this machine" in row["remedy"]


# ---- as a program ---------------------------------------------------------------------------


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "toolshed.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    (tmp_path / "sleepy.yaml").write_text("sleepy: {backend: 'sleepy:Sleepy'}")
    (tmp_path / "sleepy.py").write_text(
        "import pathlib, time\n"
        "from toolshed.tool import Family, tool\n"
        "class Sleepy(Family):\n"
        "    name = 'sleepy'\n"
        "    @tool\n"
        "    def nap(self):\n"
        "        '''Sleep.'''\n"
        "        pathlib.Path('asleep').touch()\n"
        "        while True: time.sleep(0.05)\n"
    )
    # What lies in the working folder can be named by a config.
    with start("call", "sleepy.nap", "--config", "sleepy.yaml", folder=tmp_path) as process:
        for _ in range(400):
            if (tmp_path / "asleep").exists():
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            out, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, told) == (130, "", "tools: in process\ninterrupted\n")


def test_a_reader_that_goes_early_is_no_error(tmp_path: Path) -> None:
    with start("schemas", "v2", folder=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.wait(timeout=20), process.stderr.read()) == (0, "")
