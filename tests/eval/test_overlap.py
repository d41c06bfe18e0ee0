"""Overlap of training and evaluation: found in every format, counted right, in flat memory."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval import overlap_rows
from eval.overlap import main
from eval.overlap_rows import read_items
from rl.tabletop.dataset import Order, write_dataset
from sft.fingerprint import text_hash
from tests.sft.test_fingerprint import picture

Json = Any


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(6):
        picture(seed).save(tmp_path / f"{seed}.png")
    return tmp_path


def released(text: str, *images: Json, extra: Mapping[str, Json] | None = None) -> Json:
    return {
        "data_source": "robospatial",
        "prompt": [
            {"role": "system", "content": "You see."},
            {"role": "user", "content": "<image>" * len(images) + text},
        ],
        "images": list(images),
        "reward_model": {"ground_truth": "Yes", "style": "rule"},
        "extra_info": extra or {"index": 0},
    }


def chat(text: str, *images: Json) -> Json:
    return {
        "conversations": [
            {"from": "human", "value": "<image>" * len(images) + text},
            {"from": "gpt", "value": "<tool_call>{}</tool_call>"},
            {"from": "human", "value": "a reply"},
            {"from": "gpt", "value": "<answer>Yes</answer>"},
        ],
        "images": list(images),
    }


def uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def parquet(path: Path, rows: Sequence[Json]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def jsonl(path: Path, rows: Sequence[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Json:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def benchmark(folder: Path) -> Path:
    rows = [released(f"Is {n} there?", {"image": uri(folder / f"{n}.png")}) for n in range(4)]
    return parquet(folder / "robospatial.parquet", rows)


def test_each_way_of_meeting_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(2).resize((320, 320)).save(folder / "large.jpg", quality=80)
    rows = [
        chat("Is 0 there", "0.png"),
        chat("Another question", "0.png"),
        chat("is 2 THERE?", "large.jpg"),
        chat("Is 3 there?", "5.png"),
        chat("Nothing shared", "5.png"),
        chat("No picture at all"),
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    told = found(capsys, folder / "train.json", benchmark(folder))
    (overlap,) = told["overlaps"]
    ways = ("same_picture", "near_picture", "same_text", "picture_and_text")
    counts = {way: (overlap[way]["training_rows"], overlap[way]["evaluation_rows"]) for way in ways}
    assert counts == {
        "same_picture": (2, 1), "near_picture": (1, 1), "same_text": (3, 3),
        "picture_and_text": (2, 2),
    }  # fmt: skip
    assert told["training"] == [
        {"file": str(folder / "train.json"), "rows": 6, "rows_without_picture": 1}
    ]
    near = next(one for one in overlap["examples"] if one["way"] == "near_picture")
    assert near["training"].endswith("train.json row 2")
    assert near["evaluation"].endswith("robospatial.parquet row 2") and near["bits"] <= 5


def test_every_format_is_read_alike(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoded = {"bytes": (folder / "1.png").read_bytes(), "path": None}
    files = [
        parquet(folder / "a.parquet", [released("Is 1 there?", "1.png")]),
        parquet(folder / "b.parquet", [released("Is 1 there?", encoded)]),
        jsonl(folder / "c.jsonl", [chat("Is 1 there?", "1.png")]),
        jsonl(folder / "d.jsonl", [{"question": "Is 1 there?", "image": "1.png"}]),
        jsonl(folder / "e.jsonl", [
            {"messages": [{"role": "user", "content": "Is 1 there?"}], "images": ["1.png"]}]),
        jsonl(folder / "f.jsonl", [
            released("Rewritten", "1.png", extra={"question": "Is 1 there?"})]),
    ]  # fmt: skip
    (folder / "g.json").write_text(json.dumps([chat("Is 1 there?", str(folder / "1.png"))]))
    told = found(capsys, *files, folder / "g.json", benchmark(folder))
    assert len(told["overlaps"]) == 7
    for overlap in told["overlaps"]:
        assert overlap["picture_and_text"] == {"training_rows": 1, "evaluation_rows": 1}, overlap


def test_what_is_apart_meets_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("train", 1), ("test", 900)):
        order = Order(kinds=("point",), num=12, seed=seed)
        write_dataset(tmp_path / f"{name}.parquet", order)
    capsys.readouterr()
    words = [str(tmp_path / "train.parquet"), "--against", str(tmp_path / "test.parquet")]
    (overlap,) = found(capsys, *words)["overlaps"]
    assert overlap["same_picture"] == overlap["near_picture"] == {
        "training_rows": 0, "evaluation_rows": 0
    }  # fmt: skip
    assert overlap["picture_and_text"]["training_rows"] == 0
    assert main(words) == 0
    assert "0 / 0" in capsys.readouterr().out


def test_hashes_are_exported_for_cleaning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "hashes.json"
    told = found(capsys, benchmark(folder), "--export", path)
    assert told["training"] == [] and told["overlaps"] == []
    held = json.loads(path.read_text())
    assert (held["format"], held["near_bits"]) == ("spacetools-evaluation-hashes-1", 5)
    one = held["sets"]["robospatial"]
    assert one["rows"] == len(one["picture_sha256"]) == len(one["picture_dhash"]) == 4
    assert all(len(text) == 16 for text in one["picture_dhash"])
    assert text_hash("is 3 there") in one["text_sha256"]


def test_texts_alone_need_no_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = jsonl(folder / "train.jsonl", [chat("Is 0 there?", "gone.png")])
    words = [str(train), str(benchmark(folder))]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "train.jsonl line 1: image" in told and "--root FOLDER, or --texts" in told
    (overlap,) = found(capsys, *words, "--texts")["overlaps"]
    assert overlap["same_text"]["training_rows"] == 1
    assert overlap["picture_and_text"]["training_rows"] == 0
    picture(0).save(folder / "gone.png")
    (overlap,) = found(capsys, *words)["overlaps"]
    assert overlap["picture_and_text"]["training_rows"] == 1


def test_flat_pictures_are_near_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, grey in (("a", 10), ("b", 200)):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(tmp_path / f"{name}.png")
    train = jsonl(tmp_path / "train.jsonl", [chat("x", "a.png")])
    test = jsonl(tmp_path / "test.jsonl", [chat("y", "b.png")])
    (overlap,) = found(capsys, train, "--against", test)["overlaps"]
    assert overlap["near_picture"]["training_rows"] == 0


def test_benchmarks_are_found_by_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = jsonl(folder / "train.jsonl", [chat("Is 0 there?", "0.png")])
    benchmark(folder)
    told = found(capsys, train, "robospatial", "--data", folder)
    assert told["evaluation"][0]["rows"] == 4
    for words, said in (
        ([train], "none of"),
        ([folder / "robospatial.parquet"], "all of"),
        ([train, "robospatial"], "(here: --data FOLDER)"),
        ([train, "tabletop-point"], "made on demand"),
        ([train, "--against", folder / "none.json"], "is no file"),
        ([train, "--against", folder / "0.png"], "none of .parquet, .jsonl, .json"),
        (
            [train, "robospatial", folder / "robospatial.parquet", "--data", folder],
            "two evaluation",
        ),
        ([train, "robospatial", "--data", folder, "--near", "64"], "--near 64"),
        ([train, "robospatial", "--data", folder, "--examples", "-1"], "--examples -1"),
    ):
        assert main([str(word) for word in words]) == 2, words
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"question": "x"}\n{', "a.jsonl line 2 is no JSON"),
        ("a.jsonl", "[1]\n", "line 1 is no object"),
        ("a.jsonl", '{"images": []}\n', "line 1 asks nothing"),
        ("a.jsonl", '{"question": "x", "images": [5]}\n', "line 1: images must be"),
        ("a.jsonl", '{"question": "x", "images": [{"depth": "d"}]}\n', "line 1: images must be"),
        ("a.jsonl", "", "has no rows"),
        ("a.json", '{"question": "x"}', "does not begin with ["),
        ("a.json", '[{"question": "x"}', "a.json is no JSON list"),
        ("a.json", '[{"question": "x"} {"question": "x"}]', "a comma or ] must follow"),
        ("a.json", '[{"question": "x"},]', "an element must follow a comma"),
        ("a.json", '[{"question": "x"}] 5', "text follows the list"),
        ("a.json", "[]", "has no rows"),
        ("a.parquet", "PAR1", "not a readable parquet"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)
    test = jsonl(tmp_path / "test.jsonl", [chat("y")])
    assert main([str(tmp_path / name), "--against", str(test)]) == 2
    assert words in capsys.readouterr().err


@given(
    st.lists(
        st.fixed_dictionaries({"question": st.text(min_size=1), "n": st.integers()}), max_size=8
    ),
    st.sampled_from([None, 1]),
    st.integers(1, 40),
)
def test_lists_are_read_in_any_pieces(rows: list[Json], indent: int | None, chunk: int) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap_rows, "_CHUNK_CHARS", chunk)
        assert list(overlap_rows._elements(io.StringIO(text))) == rows


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for copies in (500, 5000):
        path = tmp_path / f"{copies}.json"
        path.write_text(json.dumps([chat(f"{n} " + "word " * 200) for n in range(copies)]))
        tracemalloc.start()
        assert sum(1 for _ in read_items(path)) == copies
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 5_000_000


def test_a_parquet_of_one_row_group_is_not_held_as_a_whole(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = [released("Is it?", {"bytes": chance.bytes(200_000)}) for _ in range(100)]
    path = tmp_path / "a.parquet"
    # Pages of few rows, as a writer of pictures makes them.
    pq.write_table(pa.Table.from_pylist(rows), path, write_batch_size=4, use_dictionary=False)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in read_items(path))
    assert path.stat().st_size > 19_000_000 and most < 8_000_000


@pytest.mark.shared
def test_recorded_answers_may_stand_for_a_benchmark(
    recorded_eval: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded_eval / "blinkdepth.jsonl"
    (overlap,) = found(capsys, path, "--against", path)["overlaps"]
    assert overlap["same_text"] == {"training_rows": 8, "evaluation_rows": 8}
    assert overlap["same_picture"]["training_rows"] == 0
