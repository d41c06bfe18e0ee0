"""Thumbnails are kept to save time, and nothing depends on their being kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rl.show.episode import Picture
from rl.show.thumbnails import Thumbnails
from tests.sft.limits import largest_file


def pictures(folder: Path, num: int) -> dict[str, Picture]:
    rng = np.random.default_rng(0)
    found = {}
    for number in range(num):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (200, 300, 3), dtype=np.uint8)).save(path)
        found[f"{number:064}"] = Picture(sha256=f"{number:064}", location=str(path))
    return found


def test_a_disk_that_takes_no_more_stops_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = pictures(tmp_path, 12)
    cache = tmp_path / "kept" / "thumbnails.sqlite"
    with largest_file(16 << 10):
        found = Thumbnails(cache, (tmp_path,)).of(shown)
    assert found.keys() == shown.keys()
    assert "thumbnails are made again next time" in caplog.text
    assert Thumbnails(cache, (tmp_path,)).of(shown) == found


def test_kept_ones_outlive_their_pictures(tmp_path: Path) -> None:
    shown = pictures(tmp_path, 3)
    cache = tmp_path / "thumbnails.sqlite"
    found = Thumbnails(cache, (tmp_path,)).of(shown)
    for picture in shown.values():
        Path(picture.location).unlink()
    assert Thumbnails(cache, (tmp_path,)).of(shown) == found and len(found) == 3
