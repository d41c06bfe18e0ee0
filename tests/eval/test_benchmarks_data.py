"""Data of benchmarks from files to questions: unpacked once, checked whole, sampled by type."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.benchmarks import BENCHMARKS, load_benchmark, open_benchmark
from eval.benchmarks.sampling import stratified
from rl.questions.unpacking import cache_folder, file_sha256
from rl.types import Question
from tests.eval.tables import AB, SYSTEM, letters, picture, row, uri, write
from toolshed.errors import ConfigError
from toolshed.images import load_image

KEY = "cvb2drelation"
CUBE = [(0.2, 0.2), (0.4, 0.2), (0.4, 0.4), (0.2, 0.4), (0.25, 0.25), (0.3, 0.25), (0.3, 0.3),
        (0.25, 0.3)]  # fmt: skip


def load(folder: Path, key: str = KEY, **options: int) -> list[Question]:
    return load_benchmark(key, folder, folder / "made", cache=str(folder / "cache"), **options)


def entries(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache" / "unpacked").iterdir() if path.is_dir()]


# ---- unpacking ----------------------------------------------------------------------------------


def test_pictures_inside_become_files_as_they_were(tmp_path: Path) -> None:
    write(tmp_path / "data" / f"{KEY}.parquet", letters(5))
    questions = load(tmp_path)
    assert [question.id for question in questions] == [f"{KEY}/{i}" for i in range(5)]
    for number, question in enumerate(questions):
        assert Path(question.images[0].image).read_bytes() == picture(number)
        assert load_image(question.images[0]).pixels.shape == (32, 48, 3)
        assert question.kind == "choice" and question.target == "AB"[number % 2]
        assert question.messages[0].text == SYSTEM
    assert len(entries(tmp_path)) == 1
    before = entries(tmp_path)[0].stat().st_mtime_ns
    assert load(tmp_path) == questions
    assert entries(tmp_path)[0].stat().st_mtime_ns == before
    write(tmp_path / "data" / f"{KEY}.parquet", letters(6))
    assert len(load(tmp_path)) == 6 and len(entries(tmp_path)) == 2


@pytest.mark.parametrize("damage", ["picture gone", "picture cut", "rows cut", "draft"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    write(tmp_path / f"{KEY}.parquet", letters(4))
    questions = load(tmp_path)
    folder = entries(tmp_path)[0]
    one = Path(questions[2].images[0].image)
    if damage == "picture gone":
        one.unlink()
    elif damage == "picture cut":
        one.write_bytes(one.read_bytes()[:100])
    elif damage == "rows cut":
        lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
        (folder / "rows.jsonl").write_text("".join(lines[:3]))
    else:
        folder.rename(folder.with_name(f".{folder.name}.draft"))
    assert load(tmp_path) == questions
    assert one.read_bytes() == picture(2)
    assert [path.name for path in entries(tmp_path)] == [folder.name]


def test_a_kill_while_unpacking_leaves_nothing_that_is_taken(tmp_path: Path) -> None:
    write(tmp_path / f"{KEY}.parquet", letters(40, size=(300, 200)))
    code = (
        "import os, sys, rl.questions.unpacking as u\nfrom pathlib import Path\n"
        "from eval.benchmarks import load_benchmark\nwrite = u._write\n"
        "def dying(encoded, folder, path, index):\n"
        "    if index == 7: os.kill(os.getpid(), 9)\n"
        "    return write(encoded, folder, path, index)\n"
        "u._write = dying\nf = Path(sys.argv[1])\n"
        f"load_benchmark('{KEY}', f, f, cache=str(f / 'cache'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=120)
    assert done.returncode == -9
    assert [path.name[0] for path in entries(tmp_path)] == ["."]
    assert len(load(tmp_path)) == 40
    assert len(entries(tmp_path)) == 1 and not entries(tmp_path)[0].name.startswith(".")


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    write(tmp_path / f"{KEY}.parquet", letters(20))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load(tmp_path), range(4)))
    assert all(one == found[0] for one in found)
    assert len(entries(tmp_path)) == 1


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc").is_dir(), reason="root writes anywhere")
def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / f"{KEY}.parquet", letters(2))
    with pytest.raises(ConfigError, match=r"pictures cannot be unpacked.*cache=FOLDER"):
        load_benchmark(KEY, tmp_path, tmp_path, cache="/proc/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("") == tmp_path / "xdg" / "spacetools"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("") == tmp_path / ".cache" / "spacetools"


def test_paths_are_left_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture())
    write(tmp_path / f"{KEY}.parquet", [row("pictures/a.png", "A")])
    assert load(tmp_path)[0].images[0].image == str(tmp_path / "pictures" / "a.png")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "pictures" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"a\.png is missing or damaged"):
        load(tmp_path)


def test_memory_does_not_grow_with_pictures(tmp_path: Path) -> None:
    """240 pictures of 90 kB, in row groups as the hub's writer makes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    small, many = tmp_path / "small", tmp_path / "many"
    for folder, num in ((small, 20), (many, 240)):
        rows = [row(uri(picture(i % 20, (200, 150))), "A") for i in range(num)]
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{KEY}.parquet", row_group_size=20)
        del rows
    load(small)
    peaks = {}
    for name, folder in (("first", many), ("second", many), ("small", small)):
        tracemalloc.start()
        assert load(folder)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 22 MB of pictures; what grows is text, some kilobytes a question.
    assert peaks["first"] - peaks["small"] < 4e6, peaks
    assert peaks["second"] < 4e6, peaks


# ---- what is wrong with data --------------------------------------------------------------------


def test_a_damaged_picture_names_its_row(tmp_path: Path) -> None:
    for broken, said in ((uri(picture()[:60]), "row 1"), ("data:image/png;base64,%%", "no base64")):
        write(tmp_path / f"{KEY}.parquet", [row(uri(picture()), "A"), row(broken, "A")])
        with pytest.raises(ConfigError, match=said):
            load(tmp_path)


def test_an_unreadable_truth_names_row_and_value(tmp_path: Path) -> None:
    image = uri(picture())
    write(tmp_path / "bopgrasp.parquet", [row(image, str(CUBE)), row(image, str(CUBE))])
    with pytest.raises(ConfigError, match=r"row 0: ground truth '\[\(0.2, .*another benchmark"):
        load(tmp_path, "bopgrasp")
    write(tmp_path / "robospatial.parquet", [row(image, "Yes"), row(image, "maybe")])
    with pytest.raises(ConfigError, match="row 1: ground truth 'maybe' of robospatial"):
        load(tmp_path, "robospatial")


def test_a_pose_without_eight_corners_scores_0_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from eval.scoring import score_answer

    image = uri(picture())
    rows = [row(image, str(CUBE)), row(image, str(CUBE[:7])), row(image, str(CUBE))]
    write(tmp_path / "boppose.parquet", rows)
    with caplog.at_level(logging.WARNING):
        questions = load(tmp_path, "boppose")
    assert len(questions) == 3
    assert "1 ground truths of boppose have other than eight corners" in caplog.text
    assert "(rows 1)" in caplog.text
    assert score_answer("boppose", "?", questions[1].target, str(CUBE)).score == 0.0


def test_what_a_row_calls_itself_does_not_decide(tmp_path: Path) -> None:
    """``qa_type`` of published files is a word of theirs, which may be one of ours."""
    extra = {"qa_type": "number", "question": "?"}
    point = row(uri(picture()), "[(0.2, 0.2), (0.8, 0.8), (0.8, 0.2)]", extra_info=extra)
    write(
        tmp_path / "robospatial.parquet", [point, {**point, "reward_model": {"ground_truth": "No"}}]
    )
    assert [question.kind for question in load(tmp_path, "robospatial")] == ["point_free", "yesno"]


def test_foreign_files_and_empty_ones_stop(tmp_path: Path) -> None:
    (tmp_path / f"{KEY}.parquet").write_bytes(b"not a parquet")
    with pytest.raises(ConfigError, match="not a readable parquet"):
        load(tmp_path)
    write(tmp_path / f"{KEY}.parquet", [{"question": "?"}])
    with pytest.raises(ConfigError, match="lacks the column"):
        load(tmp_path)


def test_a_prompt_of_the_entry_replaces_the_datas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / f"{KEY}.parquet", letters(1))
    monkeypatch.setitem(BENCHMARKS, KEY, replace(BENCHMARKS[KEY], prompt="Say a letter."))
    first, second = load(tmp_path)[0].messages
    assert (first.role, first.text) == ("system", "Say a letter.")
    assert second.text == f"<image>{AB}"


def test_facts_say_where_questions_come_from(tmp_path: Path) -> None:
    file = write(tmp_path / f"{KEY}.parquet", letters(3))
    found = open_benchmark(KEY, tmp_path, tmp_path, limit=2, cache=str(tmp_path / "cache"))
    assert found.facts == {"file": str(file), "sha256": file_sha256(file)}
    assert (len(found.questions), found.num_all) == (2, 3)
    made = open_benchmark("tabletop-depth", None, tmp_path / "made", limit=2)
    assert made.facts == {"made": "tabletop, seed 2147000777"} and len(made.questions) == 2
    json.dumps(found.facts)


# ---- samples ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60),
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(0, 3),
)
def test_samples_are_nested_fair_and_the_same_again(
    types: list[str], limit: int, other: int, seed: int
) -> None:
    picks = stratified(types, limit, seed)
    assert picks == stratified(types, limit, seed) == sorted(set(picks))
    assert len(picks) == (min(limit, len(types)) or len(types))
    smaller = stratified(types, other, seed)
    assert set(picks) <= set(smaller) or set(smaller) <= set(picks)
    counts, sizes = Counter(types[pick] for pick in picks), Counter(types)
    if len(picks) >= len(sizes):
        assert all(counts[name] >= 1 for name in sizes)
    for name, size in sizes.items():
        share = len(picks) * size / len(types)
        assert share - len(sizes) <= counts[name] <= max(1.0, share + len(sizes))


def test_a_sample_holds_every_type_in_its_share(tmp_path: Path) -> None:
    image = uri(picture())
    scatter = "[(0.2, 0.2), (0.8, 0.8), (0.8, 0.2)]"
    rows = [row(image, scatter, "Pinpoint one point within the vacant space")] * 12
    rows += [row(image, "Yes", "Can the cup fit left of the lamp?")] * 10
    rows += [row(image, "No", "Is the cup above the lamp?")] * 10
    rows += [row(image, "No", "Is the cup behind the lamp?")] * 3
    write(tmp_path / "robospatial.parquet", rows)

    def rows_of(limit: int, seed: int) -> set[str]:
        return {question.id for question in load(tmp_path, "robospatial", limit=limit, seed=seed)}

    assert rows_of(7, 0) < rows_of(14, 0) != rows_of(14, 1)
    picks = [int(one.split("/")[1]) for one in rows_of(14, 0)]
    parts = [
        sum(a <= pick < b for pick in picks) for a, b in ((0, 12), (12, 22), (22, 32), (32, 35))
    ]
    assert parts == [5, 4, 4, 1]


def test_another_benchmarks_file_is_refused(tmp_path: Path) -> None:
    rows = [each | {"data_source": "boppose"} for each in letters(2)]
    write(tmp_path / f"{KEY}.parquet", rows)
    with pytest.raises(ConfigError, match=f"row 0 is of boppose, not of {KEY}"):
        load(tmp_path)
    write(tmp_path / f"{KEY}.parquet", [row(uri(picture()), "[(0.1, 0.2)]")])
    with pytest.raises(ConfigError, match="is none of the options"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="is a file, data= names a folder"):
        load_benchmark(KEY, tmp_path / f"{KEY}.parquet", tmp_path)
