"""Pictures as engines get them: the learner's pixels, kept while they are used, within a bound."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rl.policy.sglang.pictures import PictureStore, resized
from sft.render import Renderer
from toolshed.images import make_image


@pytest.mark.parametrize("size", [(112, 112), (90, 150), (31, 29), (200, 40), (12, 12)])
def test_the_engine_gets_the_pixels_that_the_learner_cuts(
    tiny: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    renderer = Renderer.load(tiny)
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    image = make_image(pixels)
    store = PictureStore(renderer, tmp_path)
    path = store.reference(image, "a")
    assert store.reference(make_image(pixels.copy()), "b") == path and store.num_written == 1
    with Image.open(path) as file:
        sent = make_image(np.asarray(file.convert("RGB")))
    assert resized(renderer, sent).size == (sent.width, sent.height), "nothing is left to resize"
    assert np.array_equal(renderer.vision(sent).patches, renderer.vision(image).patches)


def test_pictures_travel_along_where_no_disk_is_shared(tiny: Path) -> None:
    renderer = Renderer.load(tiny)
    image = make_image(np.zeros((56, 56, 3), dtype=np.uint8))
    told = PictureStore(renderer, None).reference(image, "a")
    head, _, data = told.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as file:
        assert file.size == (56, 56)


def test_pictures_that_no_live_trajectory_names_go_and_the_least_recently_used_first(
    tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "of_a_killed_run.png").write_bytes(b"")
    noise = np.random.default_rng(0)
    a, b, c, d = (make_image(noise.integers(0, 255, (56, 56, 3), dtype=np.uint8)) for _ in range(4))
    store = PictureStore(Renderer.load(tiny), folder, kept_bytes=25_000)
    assert not folder.exists()
    paths = [Path(store.reference(each, name)) for name, each in zip("abc", (a, b, c), strict=True)]
    assert 20_000 < sum(path.stat().st_size for path in paths) > store._kept_bytes
    assert all(path.exists() for path in paths), "above the limit, and all are used"
    store.release("b")
    assert [path.exists() for path in paths] == [True, False, True]
    store.release("a")
    store.release("c")
    assert store.reference(a, "again") == str(paths[0]) and store.num_written == 3
    store.reference(d, "d")
    assert [path.exists() for path in paths] == [True, False, False], "c was used before a"
    assert store.reference(b, "b") == str(paths[1]) and paths[1].exists() and store.num_written == 5
    store.release("never seen")
    store.clear()
    assert not folder.exists()
