"""The page is whole after any stage, holds everything, and looks like a page in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.charts import Line, interval_chart, line_chart
from eval.curves import Curve, read_metrics, time_split
from eval.report import main, publish
from eval.stages import CEILING
from tests.eval.fake_run import ACCURACY, fake_facts, write_fake_run

_VOID = {"meta", "link", "img", "input", "wbr", "br", "circle", "line", "path"}


class _Balance(HTMLParser):
    """Raises where tags do not close in order; collects attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag


SHOWN = ("base", "full_rl", "swapped_image")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_fake_run(folder, stages=(CEILING, *SHOWN), size=6)
    publish(folder, fake_facts())
    return folder


def test_the_page_is_one_well_formed_file_below_its_size(run: Path) -> None:
    page = (run / "report.html").read_text()
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(page) < 6_000_000
    assert not re.search(r"""(src|href)=["']?(https?:|//|file:)""", page)
    assert "@import" not in page
    assert not re.search(r"url\(", page)


def test_pictures_are_large_enough_and_described(run: Path) -> None:
    parser = _Balance()
    parser.feed((run / "report.html").read_text())
    assert parser.images
    for image in parser.images:
        assert int(image["width"] or 0) >= 224
        assert (image["src"] or "").startswith("data:image/jpeg;base64,")
        assert image["alt"] is not None


def test_every_stage_task_and_outcome_can_be_chosen(run: Path) -> None:
    page = (run / "report.html").read_text()
    for stage in SHOWN:
        assert f'<option value="{stage}"' in page
        assert f'data-stage="{stage}"' in page
    for value in ("point", "depth", "leftmost", "nearer", "right", "wrong"):
        assert f'value="{value}"' in page
    assert "What this shows, and what it does not" in page
    assert "another scene&#x27;s picture" in page


@pytest.mark.parametrize("num_stages", [0, 1, 3])
def test_the_page_stands_after_any_stage(tmp_path: Path, num_stages: int) -> None:
    stages = tuple(ACCURACY)[:num_stages]
    write_fake_run(tmp_path, stages=stages, size=2)
    publish(tmp_path, fake_facts(stages))
    page = (tmp_path / "report.html").read_text()
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert "nan" not in page.split("<script>")[0].partition("</style>")[2].lower().split()


def test_a_rewrite_draws_only_new_episodes(run: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (run / "gallery").iterdir()}
    publish(run, fake_facts())
    assert {path: path.stat().st_mtime_ns for path in (run / "gallery").iterdir()} == kept


def test_a_smoke_run_claims_nothing(tmp_path: Path) -> None:
    write_fake_run(tmp_path, stages=("base", "point_rl"), size=2)
    publish(tmp_path, fake_facts(smoke=True))
    page = (tmp_path / "report.html").read_text()
    assert "nothing is claimed" in page
    assert "learned to see" not in page.partition("<h1>")[2].partition("</h1>")[0]


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    from dataclasses import replace

    from eval.rows import RowLog
    from tests.eval.test_rows import make_row

    row = make_row(0)
    nasty = "<script>alert(1)</script>"
    with RowLog(tmp_path / "rows" / "base.jsonl") as log:
        log.append(replace(row, episode=replace(row.episode, question=nasty, answer=nasty)))
    publish(tmp_path, fake_facts(("base",)))
    assert nasty not in (tmp_path / "report.html").read_text()


def test_the_command_makes_the_page_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main([str(run)]) == 0
    assert (run / "report.html").read_text() == before
    assert "full_rl" in capsys.readouterr().out
    assert main([str(run / "rows")]) == 2


def test_time_splits_add_up(tmp_path: Path) -> None:
    write_fake_run(tmp_path, stages=("point_rl",), size=1)
    split = time_split(read_metrics(tmp_path, "point_rl"), "point_rl", 40.0)
    assert split is not None
    assert split.generate_s == pytest.approx(25 * 0.4)
    assert split.total_s == pytest.approx(40.0)
    assert time_split([{"step_s": 2.0}, {"step_s": 3.0}], "sft", None) is not None
    assert time_split([], "base", None) is None


def test_a_torn_metrics_line_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path, "sft") == [{"step": 1, "loss": 2.0}]


def test_charts_of_little_data_stand() -> None:
    curve = Curve(stage="full_rl", figure="reward", steps=(1,), values=(0.5,))
    assert "NaN" not in line_chart("reward", [Line(label="real", style="final", curve=curve)])
    assert interval_chart("nothing", [], None).startswith("<svg")


_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(_CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (500, "dark")])
def test_a_browser_shows_it(run: Path, tmp_path: Path, width: int, scheme: str) -> None:
    assert _CHROMIUM is not None
    picture = tmp_path / "page.png"
    command = [
        _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--window-size={width},2400", f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={picture}",
    ]  # fmt: skip
    if scheme == "dark":
        command.append("--blink-settings=preferredColorScheme=0")
    subprocess.run(
        [*command, (run / "report.html").as_uri()], check=True, capture_output=True, timeout=60
    )
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    assert pixels.shape[1] == width
    assert (pixels.mean() > 200) == (scheme == "light")
    assert pixels.std() > 8
    # Nothing is wider than the window: the right margin is empty paper.
    assert pixels[:, -4:].std() < 3
