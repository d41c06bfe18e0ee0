"""Where rows lie in a file: exact for every list and every cut into chunks, and what traps do."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sft.rows import container_of, decoded, places
from sft.transcript import RejectedRow
from toolshed.errors import ConfigError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
BOM = b"\xef\xbb\xbf"


def elements(content: bytes, chunk_bytes: int = 0) -> list[bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_bytes(content)
        with path.open("rb") as file:
            found = list(places(file, path, chunk_bytes=chunk_bytes))
    return [content[begin : begin + length] for begin, length in found]


@given(
    st.lists(VALUES, max_size=5),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.integers(1, 40),
    st.sampled_from([b"", BOM, BOM + BOM, b"\r\n "]),
)
@settings(max_examples=120, deadline=None)
def test_the_elements_of_a_list_are_found_whatever_is_in_them(
    rows: list[Any], indent: int | None, is_ascii: bool, chunk_bytes: int, head: bytes
) -> None:
    content = json.dumps(rows, indent=indent, ensure_ascii=is_ascii).encode()
    found = elements(head + content + b"\r\n", chunk_bytes)
    assert [json.loads(each) for each in found] == rows


@given(st.text(alphabet='[]{},:"\\ 1a\n', max_size=24), st.integers(1, 9))
@example("1}", 9)
@example("1,]", 9)
@example('"\\"]', 2)
@settings(max_examples=300, deadline=None)
def test_a_scanned_list_is_whole_exactly_where_a_parser_says_so(text: str, chunk: int) -> None:
    try:
        expected: Any = json.loads(f"[{text}")
    except ValueError:
        expected = None
    try:
        found: Any = [json.loads(each) for each in elements(f"[{text}".encode(), chunk)]
    except (ConfigError, ValueError):
        found = None
    assert found == expected


ROWS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, min_size=1), min_size=1, max_size=5)
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\r\n"])


@given(ROWS, ENDS, st.integers(1, 40), st.booleans())
@settings(max_examples=80, deadline=None)
def test_lines_are_found_whatever_ends_them(
    rows: list[dict[str, Any]], end: str, chunk_bytes: int, is_ended: bool
) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    content = (end.join(lines) + end * is_ended).encode()
    assert [decoded(each) for each in elements(content, chunk_bytes)] == rows


def test_files_that_were_joined_have_byte_order_marks_in_the_middle() -> None:
    found = elements(BOM + BOM + b'{"a": 1}\n' + BOM + b'{"a": 2}\n' + BOM + b"\n", 3)
    assert [decoded(each) for each in found] == [{"a": 1}, {"a": 2}]


def test_a_torn_list_says_where_it_ends() -> None:
    with pytest.raises(ConfigError, match=r"torn: they end in row 2, after 24 bytes"):
        elements(b'[{"a": 1}, {"a": 2}, {"a')
    with pytest.raises(ConfigError, match="go on at byte 10 after their list has ended"):
        elements(b'[{"a": 1}][{"a": 2}]')


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"a": 1', "no JSON"),
        (b'{"a": "\xff"}', "no UTF-8"),
        (b"[1]", "no object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
    ],
)
def test_a_row_that_is_no_object_is_told_from_others(row: bytes, reason: str) -> None:
    with pytest.raises(RejectedRow) as told:
        decoded(row)
    assert told.value.reason == reason


def test_a_huge_row_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.write(b'[{"a": "')
        for _ in range(48):
            file.write(b'\\"' * (1 << 19))
        file.write(b'"}, {"a": 1}]')
    tracemalloc.start()
    with path.open("rb") as file:
        found = list(places(file, path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 2 and found[0][1] > 48 << 20
    assert peak < 8 << 20


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for content, said in ((b"", "empty"), (b" \n", "empty"), (b"a,b\n", "no JSON: they begin")):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            container_of(tmp_path / "bad")
