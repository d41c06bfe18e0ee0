"""docs/DATA.md is true: examples are read, mixtures parsed, and a format of one's own works."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from sft.data import DataConfig, SourceConfig
from sft.formats import table
from sft.index import Index, Recipe, open_index
from sft.mixture import parse_mixture
from sft.train import SFTConfig, main
from sft.transcript import Reading
from tests.sft.test_index import picture

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "DATA.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^### `(\w+)`$.*?^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def indexed(folder: Path, content: str) -> Index:
    picture(folder / "cup.png")
    (folder / "set.json").write_text(content)
    return open_index(Recipe(reading=Reading(path=folder / "set.json", images=Path())), folder)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_each_example_is_read_in_its_format(tmp_path: Path, name: str, example: str) -> None:
    index = indexed(tmp_path, example)
    assert (index.summary.format, len(index), index.summary.rejected) == (name, 1, {})
    assert len(index.transcript(0).images) == 1


def test_there_is_an_example_of_every_format() -> None:
    assert {name for name, _ in EXAMPLES} == set(table.FORMATS)


def test_the_mixtures_of_the_table_are_mixtures() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (?:each|and|files)", PAGE, re.MULTILINE)
    parts = [parse_mixture(row) for row in rows]
    assert len(parts) == 4 and parts[3][1].name == "hub:owner/name@0a1b2c3"
    assert (parts[3][0].repeats, parts[3][0].share) == (2, 0.5)


def test_every_key_that_is_named_is_one() -> None:
    config = SFTConfig()
    for key in set(re.findall(r"\bdata\.(\w+)[=`]", PAGE)) - {"json"}:
        assert hasattr(config.data, key), key
    keys = re.findall(r"^\| `(\w+)` \| ", PAGE.partition("| Key |")[2], re.MULTILINE)
    assert keys[:6] == ["format", "images", "depth", "system", "score_above", "name"]
    assert all(hasattr(SourceConfig(), key) for key in keys[:6])
    assert f"({DataConfig().templates})" in PAGE and DataConfig().max_rejected == 0.01


def test_the_command_is_one(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```bash\npython -m sft\.train (.*?)```", PAGE, re.DOTALL)
    assert block
    row = (
        '{"messages": [{"role": "user", "content": "%d?"}, {"role": "assistant", "content": "."}]}'
    )
    (tmp_path / "set.jsonl").write_text("\n".join(row % i for i in range(40)))
    changed = block[1].replace("\\\n", "").replace("CHECKPOINT", str(tiny))
    changed = changed.replace("hub:siyich/spacetools-sft", str(tmp_path / "set.jsonl"))
    words = [word.replace("runs/first", str(tmp_path / "run")) for word in shlex.split(changed)]
    assert main([*words, f"data.cache={tmp_path}/cache"]) == 0
    assert "40        40" in capsys.readouterr().out


def test_a_format_of_ones_own_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n# sft/formats/(\w+)\.py\n(.*?)```", PAGE, re.DOTALL)
    assert block
    (tmp_path / "its_pairs.py").write_text(block[2])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(table.FORMATS, block[1], "its_pairs")
    rows = [
        {"question": "?", "answer": "A cup.", "picture": "cup.png"},
        {"question": "?", "answer": 3},
    ]
    index = indexed(tmp_path, json.dumps(rows))
    sys.modules.pop("its_pairs", None)
    assert index.summary.format == "pairs" and index.summary.rejected == {"no answer": 1}
    assert index.transcript(0).messages[2].text == "A cup."
