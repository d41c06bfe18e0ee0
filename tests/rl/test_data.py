"""Questions survive parquet, wrong files stop with one sentence, the order resumes exactly."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rl.questions.data import (
    QuestionStream,
    StreamState,
    answer_kind,
    data_uri,
    has_depth,
    load_questions,
    write_questions,
)
from rl.types import Question
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, load_image
from toolshed.types import Message


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def row(images: Sequence[object], **changed: Any) -> dict[str, Any]:
    return {
        "data_source": "some-benchmark",
        "prompt": [
            {"role": "system", "content": "Think about space."},
            {"role": "user", "content": "<image>" * len(images) + "Is it left?"},
        ],
        "images": list(images),
        "ability": "spatial",
        "reward_model": {"ground_truth": "Yes", "style": "rule"},
        "extra_info": {"index": 0, "question": "Is it left?", "split": None},
        **changed,
    }


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    return tmp_path


def test_paths_become_absolute(folder: Path) -> None:
    (question,) = load_questions(write(folder / "x.parquet", row(["images/a.png"])))
    assert question.images == (ImageSource(image=str(folder / "images/a.png")),)
    assert question.id == "x/0" and question.kind == "yesno" and question.target == "Yes"
    assert question.messages[1].num_images == 1 and question.messages[0].num_images == 0
    assert question.extra == {"index": 0, "question": "Is it left?"}
    assert not has_depth([question])


def test_data_uris_bytes_depth_and_focal_length(folder: Path) -> None:
    uri = data_uri(png())
    rows = [
        row([{"image": uri, "depth": None, "focal_length_px": None}]),
        row([{"image": uri, "depth": "images/d.png", "focal_length_px": 250.0}]),
    ]
    Image.new("I;16", (8, 6), 700).save(folder / "images" / "d.png")
    plain, deep = load_questions(write(folder / "x.parquet", *rows))
    assert load_image(plain.images[0]).depth_mm is None
    image = load_image(deep.images[0])
    assert image.depth_mm is not None and image.depth_mm[0, 0] == 700
    assert image.focal_length_px == 250.0 and has_depth([deep])
    (held,) = load_questions(write(folder / "y.parquet", row([{"bytes": png(), "path": "a.png"}])))
    assert load_image(held.images[0]).width == 8


def test_data_root_moves_relative_paths(folder: Path) -> None:
    other = folder / "elsewhere"
    other.mkdir()
    path = write(other / "x.parquet", row(["images/a.png"]))
    assert load_questions(path, data_root=folder)[0].images[0].image.startswith(str(folder / "im"))
    with pytest.raises(ConfigError, match="missing or damaged"):
        load_questions(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": [{"role": "user", "content": "no mark"}]}, "0 <image> mark"),
        ({"prompt": [{"role": "assistant", "content": "<image>"}]}, "the user's last"),
        ({"prompt": [{"speaker": "user", "content": "<image>"}]}, "released layout"),
        ({"reward_model": {"truth": "Yes"}}, "released layout"),
        ({"reward_model": {"ground_truth": "perhaps so"}}, "no answer kind fits"),
        ({"extra_info": {"qa_type": "pose"}}, "eight"),
        ({"images": ["images/none.png"]}, "missing or damaged"),
        ({"images": ["data:image/png;base64,AAAA"]}, "missing or damaged"),
    ],
)
def test_wrong_rows_stop_with_one_sentence(
    folder: Path, changed: dict[str, Any], message: str
) -> None:
    path = write(folder / "x.parquet", row(["images/a.png"]) | changed)
    with pytest.raises(ConfigError, match=message) as caught:
        load_questions(path)
    assert "\n" not in str(caught.value)


def test_wrong_files_stop_with_one_sentence(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_questions(folder / "none.parquet")
    (folder / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ConfigError, match="not a readable parquet"):
        load_questions(folder / "bad.parquet")
    less = {key: value for key, value in row(["images/a.png"]).items() if key != "images"}
    with pytest.raises(ConfigError, match="lacks the column"):
        load_questions(write(folder / "less.parquet", less))
    empty = pa.Table.from_pylist([row(["images/a.png"])]).slice(0, 0)
    pq.write_table(empty, folder / "empty.parquet")
    with pytest.raises(ConfigError, match="no rows"):
        load_questions(folder / "empty.parquet")


def test_a_truncated_picture_is_found(folder: Path) -> None:
    (folder / "images" / "a.png").write_bytes(png()[:-20])
    with pytest.raises(ConfigError, match="damaged"):
        load_questions(write(folder / "x.parquet", row(["images/a.png"])))


def test_written_questions_read_back(folder: Path) -> None:
    first = load_questions(write(folder / "x.parquet", row(["images/a.png"])))[0]
    robot = replace(
        first,
        id="y/1",
        source="tabletop-pick",
        kind="pick",
        images=(),
        scene=7,
        target="red cube",
        messages=(Message(role="user", text="Pick up the red cube."),),
        extra={"choices": ["a", "b"]},
    )
    write_questions(folder / "y.parquet", [replace(first, id="y/0"), robot])
    loaded = load_questions(folder / "y.parquet")
    assert [question.images for question in loaded] == [first.images, ()]
    assert [question.messages for question in loaded] == [first.messages, robot.messages]
    assert loaded[1].scene == 7 and loaded[0].scene is None
    assert loaded[1].extra["choices"] == ["a", "b"] and loaded[1].kind == "pick"
    raw = pq.read_table(folder / "y.parquet").to_pylist()[0]
    assert raw["images"][0]["image"] == "images/a.png"
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize(
    ("source", "target", "question", "kind"),
    [
        ("robospatial", "No", "", "yesno"),
        ("robospatial", "[(0.1, 0.2), (0.2, 0.2), (0.1, 0.3)]", "", "point_free"),
        ("cvb2drelation", "A", "", "choice"),
        ("boppose", str([(0.1, 0.2)] * 8), "", "pose"),
        ("bop-ask", str([(0.1, 0.2)] * 8), "cuboid corners", "pose"),
        ("bopgrasp", "Grasp center: [0.1, 0.2], Left finger base: [0.3, 0.2]", "", "grasp"),
        ("reflocation", base64.b64encode(png() * 2).decode(), "", "point_object"),
        ("distance", 0.87, "", "number"),
        ("distance", "0.87", "", "number"),
        ("tabletop-nearer", "red cube", "", "choice"),
    ],
)
def test_kinds_are_told_by_ground_truth(source: str, target: Any, question: str, kind: str) -> None:
    assert answer_kind(source, "", target, question) == kind


def questions(num: int) -> list[Question]:
    return [
        Question(id=str(i), source="s", kind="yesno", messages=(), images=(), target="Yes")
        for i in range(num)
    ]


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(0, 2**31), st.integers(0, 60), st.integers(0, 60))
def test_the_order_resumes_exactly(num: int, seed: int, before: int, after: int) -> None:
    stream = QuestionStream(questions(num), seed)
    stream.take(before)
    saved = StreamState(**asdict(stream.state()))
    expected = [question.id for question in stream.take(after)]
    again = QuestionStream(questions(num), seed)
    again.restore(saved)
    assert [question.id for question in again.take(after)] == expected


@given(st.integers(1, 12), st.integers(0, 99))
def test_an_epoch_asks_every_question_once(num: int, seed: int) -> None:
    stream = QuestionStream(questions(num), seed)
    for _ in range(2):
        assert sorted(int(q.id) for q in stream.take(num)) == list(range(num))


def test_another_data_set_is_not_continued() -> None:
    state = QuestionStream(questions(3), 1).state()
    changed = [replace(question, target="another answer") for question in questions(3)]
    others = (questions(4), 1), (questions(3), 2), (changed, 1)
    for other in (QuestionStream(asked, seed) for asked, seed in others):
        with pytest.raises(ConfigError, match="another data set or seed"):
            other.restore(state)
