"""Indexes: every row accepted or told, rows read again by their place, made once and made anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sft import index as index_module
from sft.data import load_transcripts
from sft.index import REJECTED, Index, Recipe, open_index
from sft.row_facts import facts_of
from sft.transcript import Reading
from toolshed.errors import ConfigError


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((56, 56, 3), shade, np.uint8)).save(path)
    return path


def row(text: str = "Where?", said: str = "<answer>1</answer>", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>{text}"}, {"from": "gpt", "value": said}]
    return {"conversations": turns, "images": ["a.png"], "system": "Look."} | more


def written(folder: Path, rows: list[Any], name: str = "set.json") -> Recipe:
    picture(folder / "a.png")
    path = folder / name
    path.write_text(json.dumps(rows))
    return Recipe(reading=Reading(path=path, images=Path()))


def lines(index: Index) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (index.folder / REJECTED).read_text().splitlines()]


def test_every_row_is_accepted_or_told_with_its_number_and_reason(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(picture(tmp_path / "b.png").read_bytes()[:60])
    call = '<tool_call>\n{"name": "robot.pick", "arguments": {}}\n</tool_call>'
    rows = [
        row(),
        row(images=["gone.png"]),
        row(images=["torn.png"]),
        row(images=[]),
        "no row",
        row(said=call),
        row(said="the robot. It moves"),
        row(score=0.2),
    ]
    recipe = replace(written(tmp_path, rows), leave_out=("robot",), score_above=0.5)
    index = open_index(recipe, tmp_path / "cache")
    assert index.summary.format == "sharegpt"
    assert (index.summary.rows, index.summary.accepted, len(index)) == (8, 2, 2)
    assert index.summary.rejected == {
        "a picture is missing": 1,
        "a picture cannot be read": 1,
        "image marks and images differ in number": 1,
        "no object": 1,
    }
    assert index.summary.filtered == {"mentions tools of robot": 1, "score is not above 0.5": 1}
    assert index.summary.first.startswith("row 1: image") and index.summary.pictures == 1
    told = lines(index)
    assert [(line["row"], line["is"]) for line in told] == [
        (1, "rejected"), (2, "rejected"), (3, "rejected"), (4, "rejected"), (5, "filtered"),
        (7, "filtered"),
    ]  # fmt: skip
    content = recipe.reading.path.read_bytes()
    assert content[told[4]["byte"] :].lstrip().startswith(json.dumps(rows[5])[:20].encode())
    assert open_index(replace(recipe, leave_out=()), tmp_path / "cache").summary.tools == {
        "robot.pick": 1
    }


def test_rows_are_read_by_their_place_as_the_whole_file_is(tmp_path: Path) -> None:
    recipe = written(tmp_path, [row(f"Wo ist \u00e4{i}? \U0001f600") for i in range(5)])
    index = open_index(recipe, tmp_path / "cache")
    every = load_transcripts(recipe.reading.path)
    assert [index.transcript(i) for i in (4, 0, 2)] == [every[4], every[0], every[2]]
    assert isinstance(index.rows, np.memmap)


def test_one_picture_and_one_question_have_one_fingerprint(tmp_path: Path) -> None:
    import base64

    recipe = written(tmp_path, [])
    encoded = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    picture(tmp_path / "other.png", 9)
    (tmp_path / "link.png").symlink_to("a.png")
    entries = ["a.png", "link.png", f"data:image/png;base64,{encoded}", "other.png"]
    rows = [row(["Where?", "WHERE"][i % 2], images=[entry]) for i, entry in enumerate(entries)]
    recipe.reading.path.write_text(json.dumps(rows))
    index = open_index(recipe, tmp_path / "cache")
    seen = [int(index.pictures[i][0]) for i in range(4)]
    assert len(set(seen[:3])) == 1 and seen[3] != seen[0]
    assert len({int(index.texts[i][0]) for i in range(4)}) == 1


def test_an_index_stands_until_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = written(tmp_path, [row("One?")]), tmp_path / "cache"
    first = open_index(recipe, cache)
    made: list[Any] = []
    make = index_module._make

    def counted(*words: Any) -> None:
        made.append(words)
        make(*words)

    monkeypatch.setattr(index_module, "_make", counted)
    assert len(open_index(recipe, cache)) == 1 and not made
    recipe.reading.path.write_text(json.dumps([row("Two?")]))
    with pytest.raises(ConfigError, match="was changed while it was trained on: row 0"):
        first.transcript(0)
    second = open_index(recipe, cache)
    assert made and second.transcript(0).messages[1].text == "<image>Two?"
    assert second.digest != first.digest
    (second.folder / "rows.npy").unlink()
    (second.folder / "rows.npy").write_bytes(b"")
    assert len(open_index(recipe, cache)) == 1 and len(made) == 2


def test_a_link_that_is_turned_to_another_file_is_another_file(tmp_path: Path) -> None:
    for name, text in (("one", "One?"), ("two", "Two?")):
        (tmp_path / f"{name}.json").write_text(json.dumps([row(text)]))
    picture(tmp_path / "set" / "a.png")
    path = tmp_path / "set" / "set.json"
    recipe = Recipe(reading=Reading(path=path, images=Path()))
    for name, text in (("one", "One?"), ("two", "Two?")):
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / f"{name}.json")
        found = open_index(recipe, tmp_path / "cache").transcript(0)
        assert found.messages[1].text == f"<image>{text}"
        assert found.images[0].image == str(tmp_path / "set" / "a.png")


def test_a_file_that_is_written_while_it_is_read_makes_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = written(tmp_path, [row()]), tmp_path / "cache"

    def slow(*words: Any) -> Any:
        recipe.reading.path.write_text(json.dumps([row(), row()]))
        return facts_of(*words)

    monkeypatch.setattr("sft.index.facts_of", slow)
    with pytest.raises(ConfigError, match="is being written to"):
        open_index(recipe, cache)
    monkeypatch.undo()
    assert len(open_index(recipe, cache)) == 2


OPENED = """
import sys
from pathlib import Path
from sft import index
from sft.index import Recipe, open_index
from sft.transcript import Reading
make = index._make
index._make = lambda *words: (print("made"), make(*words))[1]
recipe = Recipe(reading=Reading(path=Path(sys.argv[1]), images=Path()))
print(len(open_index(recipe, Path(sys.argv[2]))))
"""


def test_two_processes_make_one_index_between_them(tmp_path: Path) -> None:
    recipe = written(tmp_path, [row(f"{i}?") for i in range(300)])
    words = [sys.executable, "-c", OPENED, str(recipe.reading.path), str(tmp_path / "cache")]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(told) == [["300"], ["made", "300"]]


def test_a_killed_process_leaves_no_half_index(tmp_path: Path) -> None:
    recipe, cache = written(tmp_path, [row()]), tmp_path / "cache"
    dying = OPENED.replace('print("made")', "__import__('os')._exit(9)")
    words = [sys.executable, "-c", dying, str(recipe.reading.path), str(cache)]
    assert subprocess.run(words, check=False).returncode == 9
    assert len(open_index(recipe, cache)) == 1


def test_a_parquet_is_unpacked_once_and_its_rows_read_by_place(tmp_path: Path) -> None:
    encoded = picture(tmp_path / "a.png", 5).read_bytes()
    talk = [{"from": "human", "value": "Which?"}, {"from": "gpt", "value": "That."}]
    shown = [{"bytes": encoded, "path": "x.png"}]
    rows = [
        {"id": str(i), "conversations": talk, "images": shown, "type": "si", "meta_info": "{}"}
        for i in range(40)
    ]
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    recipe = Recipe(reading=Reading(path=path, images=Path()))
    index = open_index(recipe, tmp_path / "cache")
    assert index.summary.format == "llava" and len(index) == 40 and index.summary.pictures == 1
    (shown_there,) = index.transcript(39).images
    assert Path(shown_there.image).read_bytes() == encoded
    assert [index.transcript(i).id for i in (0, 39)] == ["0", "39"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="no whole parquet"):
        open_index(recipe, tmp_path / "cache")


def test_a_row_that_is_too_long_is_rejected_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "ROW_BYTES", 500)
    index = open_index(written(tmp_path, [row(), row("?" * 600)]), tmp_path / "cache")
    assert index.summary.rejected == {"a row that is too long": 1}
    assert "at most 500" in lines(index)[0]["detail"]


def test_a_file_without_one_good_row_has_an_index_too(tmp_path: Path) -> None:
    index = open_index(written(tmp_path, [row(images=[])]), tmp_path / "cache")
    assert len(index) == 0 and index.summary.rows == 1


def test_a_cache_that_cannot_be_written_is_told_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError, match=r"give data\.cache=FOLDER"):
        open_index(written(tmp_path, [row()]), tmp_path / "cache")


def test_what_is_in_no_format_is_told_with_its_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in no known format: their first row has the keys a, b"):
        open_index(written(tmp_path, [{"a": 1, "b": 2}]), tmp_path / "cache")


def test_files_of_an_index_are_let_go(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        open_index(written(tmp_path, [row()]), tmp_path / "cache").transcript(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_the_bench_measures_a_set_in_the_released_layout() -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "sft_index.py"
    words = [sys.executable, str(script), "--rows", "24", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["index_7907_s"] > 0 and figures["index_7907_again_s"] > 0
    assert 10 < figures["index_7907_rss_mb"] < 2048


def test_a_picture_that_appears_later_is_found_though_the_data_did_not_change(
    tmp_path: Path,
) -> None:
    recipe = written(tmp_path, [row(), row(images=["late.png"])])
    assert len(open_index(recipe, tmp_path / "cache")) == 1
    picture(tmp_path / "late.png", 9)
    assert len(open_index(recipe, tmp_path / "cache")) == 2


def test_a_score_that_is_no_number_is_rejected_where_scores_decide(tmp_path: Path) -> None:
    rows = [row(score=0.9), row(score="0.0"), row(score=None), row()]
    recipe = replace(written(tmp_path, rows), score_above=0.5)
    index = open_index(recipe, tmp_path / "cache")
    assert index.summary.rejected == {"score is no number": 2} and len(index) == 2


def test_depth_is_refused_by_formats_that_show_none(tmp_path: Path) -> None:
    recipe = written(tmp_path, [row()])
    asked = replace(recipe, reading=replace(recipe.reading, depth=tmp_path))
    with pytest.raises(ConfigError, match="only llava has; leave depth="):
        open_index(asked, tmp_path / "cache")
