"""Where questions come from: folders and hub sets of the published layout, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rl.config import QuestionsConfig, RLConfig
from rl.questions.sources import at_commit, is_here, load_source, on_the_hub, origin_of
from rl.start.plan import DATA_FILE, commits_of, load_all
from sft import hub as hub_files
from tests.hub_server import Hub, serving
from toolshed.errors import ConfigError
from toolshed.images import load_image

COMMIT, OTHER = "a" * 40, "b" * 40
NAME = "siyich/spacetools-rlfulltools"


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), shade, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def row(index: int, image: Any) -> dict[str, Any]:
    return {
        "data_source": "robospatial-configuration",
        "prompt": [
            {"role": "system", "content": "Think, then answer."},
            {"role": "user", "content": f"<image>Is cup {index} left of the box?"},
        ],
        "images": [image],
        "ability": "spatial",
        "reward_model": {"ground_truth": "yes", "style": "rule"},
        "extra_info": {"index": index, "split": "train", "question": "Is it?", "answer": "yes"},
    }


def inside(shade: int) -> dict[str, str]:
    """A picture as the point set has them."""
    return {"image": "data:image/png;base64," + base64.b64encode(picture(shade)).decode()}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """``data/train.parquet``, with pictures named from the set's root as the full set has them."""
    root = tmp_path / "set"
    rows = [row(index, f"images/{index}.png") for index in range(3)]
    write(root / "data" / "train.parquet", rows)
    (root / "images").mkdir()
    for index in range(3):
        (root / "images" / f"{index}.png").write_bytes(picture(index))
    return root


def test_a_folder_of_the_published_layout(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_source("set", rows=3)
    # Absolute, so that it does not matter where a process runs.
    assert [q.images[0].image for q in found] == [
        str(published / "images" / f"{index}.png") for index in range(3)
    ]
    assert [q.id for q in found] == ["train/0", "train/1", "train/2"]
    assert [q.kind for q in found] == ["yesno"] * 3
    assert load_source("set/data/train.parquet") == found
    assert load_source("set", limit=2, rows=5500) == found[:2]
    assert is_here("set") and origin_of("set") == str(published / "data" / "train.parquet")


def test_another_number_of_rows_stops(published: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 3 rows, and rows=5500 says otherwise; .*limit"):
        load_source(str(published), rows=5500)


def test_pieces_are_read_in_order(tmp_path: Path) -> None:
    for piece in (1, 0):
        rows = [row(index, inside(piece)) for index in range(2)]
        write(tmp_path / "data" / f"train-0000{piece}-of-00002.parquet", rows)
    found = load_source(str(tmp_path), rows=4, cache=str(tmp_path / "cache"))
    assert [q.id for q in found] == [
        f"train-0000{piece}-of-00002/{index}" for piece in (0, 1) for index in range(2)
    ]
    write(tmp_path / "data" / "train.parquet", rows)
    with pytest.raises(ConfigError, match=r"train\.parquet and data/train-\*\.parquet; name the"):
        load_source(str(tmp_path))


def test_pictures_inside_become_files_once(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", [row(index, inside(7)) for index in range(3)])
    cache = tmp_path / "cache"
    found = load_source(str(path), cache=str(cache))
    (location,) = {q.images[0].image for q in found}
    assert Path(location).is_relative_to(cache) and Path(location).read_bytes() == picture(7)
    assert load_image(found[0].images[0]).pixels.shape == (8, 12, 3)
    assert load_source(str(path), cache=str(cache)) == found


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": ["images/gone.png"]}, r"question train/0: image .*gone\.png is missing"),
        ({"images": []}, r"row 0 of train\.parquet: 1 <image> mark\(s\) .* 0 image"),
        ({"reward_model": {"style": "rule"}}, "row 0 of train.parquet is not in the released"),
        ({"reward_model": {"ground_truth": "perhaps so"}}, "no answer kind fits"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    write(tmp_path / "data" / "train.parquet", [row(0, "images/0.png") | change])
    with pytest.raises(ConfigError, match=sentence):
        load_source(str(tmp_path), cache=str(tmp_path / "cache"))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds none of data/train\.parquet"):
        load_source(str(tmp_path))
    for use in (load_source, is_here):
        with pytest.raises(ConfigError, match="does not exist"):
            use(str(tmp_path / "train.parquet"))


# ---- the hub ------------------------------------------------------------------------------------


def test_words_of_the_hub() -> None:
    full = on_the_hub(f"hub:{NAME}@1d539ac9/data/test.parquet")
    assert full is not None
    assert (full.repository, full.revision, full.file) == (NAME, "1d539ac9", "data/test.parquet")
    short = on_the_hub(f"hub:{NAME}")
    assert short is not None and (short.revision, short.file) == ("main", "")
    assert on_the_hub("data/train.parquet") is None
    for word in ("hub:", "hub:name", f"hub:{NAME}@", f"hub:{NAME}/README.md", f"hub:{NAME}//x"):
        with pytest.raises(ConfigError, match=r"not of the form hub:OWNER/NAME"):
            on_the_hub(word)


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    paths = [path for path in published.rglob("*") if path.is_file()]
    files = {str(path.relative_to(published)): path.read_bytes() for path in paths}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving(Hub(commits=[COMMIT, OTHER], files={**files, "README.md": b"about"})) as one:
        template = one.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", one.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield one


def test_a_set_of_the_hub_is_fetched_once_with_its_pictures(hub: Hub) -> None:
    word = f"hub:{NAME}@{COMMIT}"
    assert not is_here(word) and origin_of(word).endswith("on the hub, to be fetched")
    assert hub.asked == []
    found = load_source(word, rows=3)
    assert len({q.images[0].image for q in found}) == 3
    assert all(Path(q.images[0].image).is_file() for q in found)
    assert not any("README" in asked for asked in hub.asked)
    hub.asked.clear()
    assert is_here(word) and origin_of(word).endswith("fetched before")
    assert load_source(word) == found
    assert hub.asked == []


def test_a_branch_is_a_commit_and_one_file_is_that_file(hub: Hub) -> None:
    found = load_source(f"hub:{NAME}/data/train.parquet")
    assert COMMIT in found[0].images[0].image
    assert is_here(f"hub:{NAME}")
    with pytest.raises(ConfigError, match=r"holds no data/test\.parquet; name one of its files"):
        load_source(f"hub:{NAME}/data/test.parquet")


def test_a_run_goes_on_with_the_commit_that_it_began_with(hub: Hub, tmp_path: Path) -> None:
    word = f"hub:{NAME}"
    config = RLConfig(data=[QuestionsConfig(path=word)], out=str(tmp_path / "run"))
    begun = commits_of(config)
    assert begun == {word: COMMIT}
    (first,), _ = load_all(config, begun)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / DATA_FILE).write_text(json.dumps(begun))
    hub.commits = [OTHER, COMMIT]
    assert at_commit(word, {}) == f"hub:{NAME}@{OTHER}"
    assert commits_of(config) == begun
    assert load_all(config, commits_of(config)) == ([first], [])
    # A run of its own takes the set of today.
    assert commits_of(RLConfig(data=config.data, out=str(tmp_path / "new"))) == {word: OTHER}
    (tmp_path / "run" / DATA_FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"data\.json cannot be read"):
        commits_of(config)


def test_a_look_at_what_is_here_asks_no_server(hub: Hub) -> None:
    """Also where a part of a set came alone, and pictures are still to come."""
    word = f"hub:{NAME}"
    hub_files.fetch(NAME, COMMIT, "data/train.parquet")
    hub_files.commit_of(NAME, "main")
    assert is_here(word)
    hub.asked.clear()
    assert commits_of(RLConfig(data=[QuestionsConfig(path=word)]), fetches=False) == {word: COMMIT}
    with pytest.raises(ConfigError, match=r"image .* is missing"):
        load_source(word, fetches=False)
    assert hub.asked == []
    assert len(load_source(word, fetches=True)) == 3


def test_without_a_network_the_remedy_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"cannot be fetched .* give their folder"):
        load_source(f"hub:{NAME}")


def test_a_path_without_its_ending_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    for read in (load_source, is_here):
        with pytest.raises(
            ConfigError, match=r"train does not exist; did you mean .*/train\.parquet"
        ):
            read(str(tmp_path / "train"))
        with pytest.raises(ConfigError) as raised:
            read(str(tmp_path / "other"))
        assert "did you mean" not in str(raised.value)
