"""The command: a set that trains, the same bytes each time, nothing half written, a whole page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sft.config import load_config
from sft.curate import beside, main
from sft.curation.config import RULES, WAYS, CurateConfig
from sft.curation.traces import read_traces
from sft.data import load_transcripts
from sft.run_dir import draft_file
from tests.browser import browser, look
from tests.sft.curate_rows import Row, Spoken, detect, row, without_fields, write_rows
from toolshed.errors import ConfigError

__all__ = ["browser"]


def some(number: int = 12) -> list[Row]:
    """Three quarters say No; one row is bad, one comes twice; some have no fields."""
    rows = [
        row(
            Spoken(question=f"Is {n} there?", answer="Yes" if n % 4 == 0 else "No", kind="yesno"),
            image=f"{n % 6}.png",
            task_id=f"t/{n}/0",
            question_type="yesno",
            source="teacher" if n % 3 else "distilled",
        )
        for n in range(number)
    ]
    places = Spoken(question="Where is <b>it</b>?", answer="[(0.43, 0.57)]")
    far = Spoken(calls=[detect("cube", (0.43, 0.57))], answer="[(0.91, 0.12)]")
    return [*rows, row(places), row(places), row(far), without_fields(row(image=None))]


def run(folder: Path, *words: str, out: str = "sets/set.json") -> int:
    traces = write_rows(folder, *some())
    return main([str(traces), "--out", str(folder / out), *words])


def written(folder: Path, out: str = "sets/set.json") -> dict[str, bytes]:
    return {key: path.read_bytes() for key, path in beside(folder / out).items()}


def test_a_set_reads_back_and_says_what_was_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "balance.max_share=0.5") == 0
    told = capsys.readouterr().out
    assert re.search(r"clean +15 +1\n +override +1\n", told)
    assert re.search(r"yesno +no +9 +75% +3 +50%", told)
    path = tmp_path / "sets" / "set.json"
    transcripts = load_transcripts(path)
    rows = json.loads(path.read_text())
    assert len(transcripts) == len(rows) == 8
    assert rows[0]["images"] == ["../0.png"]
    assert [each for each in rows if not each["images"]], "a row without a picture"
    drops = [json.loads(line) for line in beside(path)["dropped"].read_text().splitlines()]
    assert [(each["step"], each["reason"]) for each in drops] == [
        ("clean", "override"),
        ("duplicates", "same"),
        *[("balance", "share")] * 6,
    ]
    assert drops[0]["place"].endswith("traces.json row 14")
    figures = json.loads(beside(path)["stats"].read_text())
    assert figures["rows"] == {"read": 16, "dropped": 8, "written": 8, "distinct": 8}
    assert figures["answers"]["after"]["yesno"] == {"no": 3, "yes": 3}
    assert {"rule": "failed_call", "why": "not checked: no field calls", "rows": 1} in figures[
        "unchecked"
    ]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    words = ("balance.max_share=0.5", "mix={teacher: 2, distilled: 1}", "repeat=true")
    assert run(tmp_path, *words) == 0
    first = written(tmp_path)
    assert run(tmp_path, *words, "--force") == 0
    assert written(tmp_path) == first
    assert run(tmp_path, *words, "--force", "seed=2") == 0
    assert all(written(tmp_path)[key] != first[key] for key in ("set", "dropped", "page"))


def test_lengths_are_counted_in_tokens_where_there_is_a_tokenizer(
    tmp_path: Path, tiny: Path
) -> None:
    assert run(tmp_path, f"page.tokenizer={tiny}") == 0
    figures = json.loads(written(tmp_path)["stats"])
    lengths = figures["lengths"]
    assert [*lengths] == ["turns", "calls", "tokens"] and lengths["tokens"]["least"] > 0
    assert all(sum(each[2] for each in one["histogram"]) == 9 for one in lengths.values())


def test_queries_are_rewritten_before_rows_are_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = "Show one point in the free space left of the red cube."
    traces = write_rows(tmp_path, row(Spoken(question=asked, answer="[(0.21, 0.55)]")))
    words = [str(traces), "--out", str(tmp_path / "set.json")]
    assert main(words) == 2
    assert "no row is left" in capsys.readouterr().err
    # As docs/CURATION.md writes it, after the shell.
    assert main([*words, r'rewrite.phrase="one point in the (free space [^.]*)\."']) == 0
    assert "query of 1 rows: rewritten" in capsys.readouterr().out
    (kept,) = json.loads((tmp_path / "set.json").read_text())
    assert kept["calls"][0]["arguments"]["obj_name"] == "free space left of the red cube"
    assert "query rewritten" in (tmp_path / "set.html").read_text()


def test_nothing_is_overwritten_unasked_and_a_dry_run_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--dry-run") == 0
    assert "would write" in capsys.readouterr().out
    assert not (tmp_path / "sets").exists()
    assert run(tmp_path) == 0
    before = written(tmp_path)
    assert run(tmp_path, "seed=5") == 2
    assert "exists; name another --out or pass --force" in capsys.readouterr().err
    assert run(tmp_path, "seed=5", "--dry-run") == 0
    assert written(tmp_path) == before


def test_a_set_that_cannot_be_finished_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path) == 0
    before = written(tmp_path)

    def full(path: Path) -> Any:
        if path.suffix == ".html":
            raise OSError(28, "no space", str(path))
        return draft_file(path)

    monkeypatch.setattr("sft.curate.draft_file", full)
    assert run(tmp_path, "--force", "seed=7") == 2
    assert written(tmp_path) == before
    assert len(list((tmp_path / "sets").iterdir())) == len(before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clean.rules=[leak, lack]"], "clean.rules holds 'lack', which is none of failed_call"),
        (["contamination.drop=[all]"], "contamination.drop holds 'all'"),
        (["contamination.lists=[gone.json]"], "gone.json does not exist; write it with python -m"),
        (["balance.max_share=2"], "balance.max_share=2.0 must lie in [0, 1]"),
        (["balance.max_share=0.2"], "balance.max_share=0.2 cannot be held in yesno"),
        (["mix={robot: 1}"], "mix names the source 'robot'"),
        (["mix={teacher: 0}"], "mix.teacher=0 must be above 0"),
        (["rewrite.phrase=abc"], "has 0 groups"),
        (["duplicates.near_bits=64"], "duplicates.near_bits=64"),
        (["page.tokenizer=nowhere"], "nowhere holds no tokenizer.json"),
        (["clean.grit=1"], "did you mean clean.grid?"),
        (["gone.json"], "transcripts gone.json do not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *words) == 2
    told = capsys.readouterr().err
    assert said in told and told.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "sets" / "set.json").exists()


def test_traces_are_never_replaced_and_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--force", out="traces.json") == 2
    assert "would replace the traces" in capsys.readouterr().err
    assert run(tmp_path, str(tmp_path / "traces.json")) == 2
    assert "is named twice" in capsys.readouterr().err
    assert run(tmp_path, out="set.txt") == 2
    assert "is no .json file" in capsys.readouterr().err


def test_the_shipped_config_and_the_help_name_every_rule(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = load_config(CurateConfig, "sft", "curate", [])
    assert config == CurateConfig() and tuple(config.clean.rules) == RULES
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(word in told for word in (*RULES, *WAYS, "rewrite.phrase"))


# ---- the page -------------------------------------------------------------------------------


class _Links(HTMLParser):
    """What a page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href")]


def test_the_page_holds_all_it_shows(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    text = written(tmp_path)["page"].decode()
    links = _Links()
    links.feed(text)
    assert links.fetched and all(link.startswith("data:image/jpeg") for link in links.fetched)
    assert "Where is &lt;b&gt;it&lt;/b&gt;?" in text and "<b>it" not in text
    assert "url(" not in text and "@import" not in text


def test_the_page_fits_narrow_screens(tmp_path: Path, browser: Any) -> None:
    assert run(tmp_path) == 0
    browser.get((tmp_path / "sets" / "set.html").as_uri())
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            look(browser, width, scheme)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    sizes = browser.execute_script(
        "return [...document.images].map(i => i.complete && i.naturalWidth)"
    )
    assert sizes and all(sizes)
    assert browser.get_log("browser") == []


def test_files_of_another_layout_are_refused_in_a_sentence(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]
    lines = tmp_path / "lines.jsonl"
    sayings = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]
    lines.write_text(json.dumps({"conversations": sayings}) + "\n")
    (tmp_path / "messages.json").write_text(json.dumps([{"messages": turns}]))
    for name in ("lines.jsonl", "messages.json"):
        with pytest.raises(ConfigError, match="no JSON list in the layout of"):
            read_traces(tmp_path / name)
