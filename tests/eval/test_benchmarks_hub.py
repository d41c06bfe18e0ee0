"""Benchmarks from the hub: at a full commit, fetched once, and what is said when it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from eval.benchmarks import BENCHMARKS, check_data, data_file, open_benchmark, origin_of
from tests.eval.tables import letters, write
from tests.hub_server import Hub, serving
from toolshed.errors import ConfigError

COMMIT = "1d539ac9" + "0123456789abcdef" * 2
OTHER = "2" * 40
KEY = "cvb2drelation"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The released set, of six questions, as the table's entry expects it."""
    content = write(tmp_path / "source.parquet", letters(6)).read_bytes()
    files = {f"data/{KEY}.parquet": content, "README.md": b"about"}
    monkeypatch.setitem(BENCHMARKS, KEY, replace(BENCHMARKS[KEY], size=6))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serving(Hub(commits=[OTHER, COMMIT], files=files)) as one:
        reach(monkeypatch, one.address)
        yield one


def reach(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What ``HF_ENDPOINT`` does before ``huggingface_hub`` is imported."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_the_pinned_revision_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    check_data(KEY, None)
    assert origin_of(KEY, None).endswith("at 1d539ac9 on the hub, to be fetched")
    assert hub.asked == []
    found = open_benchmark(KEY, None, tmp_path, cache=str(tmp_path / "cache"))
    assert len(found.questions) == found.num_all == 6
    assert found.facts["revision"] == COMMIT
    assert found.facts["repository"] == "siyich/spacetools-eval-benchmarks"
    assert len(found.facts["sha256"]) == 64
    assert any("/commits/" in asked for asked in hub.asked)
    hub.asked.clear()
    assert origin_of(KEY, None).endswith("fetched before")
    again = open_benchmark(KEY, None, tmp_path, cache=str(tmp_path / "cache"))
    assert again == found
    assert hub.asked == []


def test_a_revision_that_is_gone_stops(hub: Hub, tmp_path: Path) -> None:
    hub.commits = [OTHER]
    with pytest.raises(ConfigError, match=r"no commits of .* begin with 1d539ac9.*data=FOLDER"):
        data_file(KEY, None)
    hub.commits = [COMMIT, "1d539ac9" + "f" * 32]
    with pytest.raises(ConfigError, match="2 commits of"):
        data_file(KEY, None)


def test_no_network_and_nothing_local_names_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match=r"hub can be reached, or copy .* data=FOLDER"):
        data_file("blinkdepth", None)
    with pytest.raises(ConfigError, match=r"holds no blinkdepth\.parquet"):
        data_file("blinkdepth", tmp_path)
    with pytest.raises(ConfigError, match=r"holds no blinkdepth\.parquet"):
        check_data("blinkdepth", tmp_path)


@pytest.mark.parametrize("broken", ["cut", "flip", "gone"])
def test_a_broken_download_is_no_benchmark(hub: Hub, tmp_path: Path, broken: str) -> None:
    files = dict(hub.files)
    if broken == "cut":
        hub.cut = 200
    elif broken == "flip":
        hub.flip = True
    else:
        hub.files.pop(f"data/{KEY}.parquet")
    said = {"cut": "cannot be fetched", "flip": "is damaged", "gone": "cannot be fetched"}[broken]
    with pytest.raises(ConfigError, match=said) as caught:
        open_benchmark(KEY, None, tmp_path, cache=str(tmp_path / "cache"))
    assert "\n" not in str(caught.value)
    if broken == "flip":
        next(path for path in (tmp_path / "hub").rglob("blobs/*") if path.is_file()).unlink()
    hub.cut, hub.flip, hub.files = 0, False, files
    assert open_benchmark(KEY, None, tmp_path, cache=str(tmp_path / "cache")).num_all == 6


def test_another_size_stops_at_the_pinned_revision_and_is_told_of_a_folder(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(BENCHMARKS, KEY, replace(BENCHMARKS[KEY], size=650))
    with pytest.raises(ConfigError, match="holds 6 questions, the published cvb2drelation 650"):
        open_benchmark(KEY, None, tmp_path, cache=str(tmp_path / "cache"))
    write(tmp_path / "data" / f"{KEY}.parquet", letters(3))
    with caplog.at_level(logging.WARNING):
        found = open_benchmark(KEY, tmp_path, tmp_path, cache=str(tmp_path / "cache"))
    assert "holds 3 questions, the published cvb2drelation 650" in caplog.text
    assert "revision" not in found.facts


def test_a_pattern_on_a_branch_is_one_file_at_its_commit(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sft.hub import fetch

    hub.files = {"data/location-00000-of-00001.parquet": b"x" * 80, "data/unseen-0.parquet": b"y"}
    found = fetch("owner/set", "main", "data/location-*.parquet")
    assert found.commit == OTHER and found.path.read_bytes() == b"x" * 80
    assert fetch("owner/set", "main", "data/location-*.parquet") == found
    hub.files["data/location-b.parquet"] = b"z"
    hub.commits = [COMMIT]
    with pytest.raises(ConfigError, match=r"2 files .* are called data/location-\*"):
        fetch("owner/set", "main", "data/location-*.parquet")
    # Where the hub is gone a branch is what it was last.
    hub.commits = [OTHER]
    fetch("owner/set", "main", "data/location-*.parquet")
    reach(monkeypatch, "http://127.0.0.1:9")
    assert fetch("owner/set", "main", "data/location-*.parquet") == found
