"""Pictures and texts that are the same have the same hashes, others have others."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sft.fingerprint import NEAR_BITS, dhash, fingerprint, normal_text, text_hash
from toolshed.errors import ConfigError


def picture(seed: int, side: int = 160) -> Image.Image:
    """Smooth patches of light, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def bits(first: Image.Image, second: Image.Image) -> int:
    return (dhash(pixels(first)) ^ dhash(pixels(second))).bit_count()


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_a_gradient_sets_the_bits_it_should() -> None:
    ramp = np.repeat(np.linspace(0, 255, 90, dtype=np.uint8)[None, :, None], 80, axis=0)
    rising = np.repeat(ramp, 3, axis=2)
    assert dhash(rising) == 2**64 - 1
    assert dhash(rising[:, ::-1].copy()) == 0
    below = rising.copy()
    below[40:] = rising[40:, ::-1]
    assert dhash(below) >> 40 == 2**24 - 1 and dhash(below) & (2**24 - 1) == 0


@pytest.mark.parametrize("seed", range(8))
def test_copies_are_near_and_others_are_not(seed: int) -> None:
    image = picture(seed)
    copies = [
        Image.open(io.BytesIO(encoded(image, "JPEG", quality=75))),
        Image.open(io.BytesIO(encoded(image, "WEBP", quality=60))),
        image.resize((80, 80)),
        image.resize((320, 320)),
    ]
    assert all(bits(image, copy) <= NEAR_BITS for copy in copies)
    assert bits(image, picture(seed + 100)) > NEAR_BITS


def test_the_same_pixels_have_one_hash_whatever_holds_them(tmp_path: Path) -> None:
    image = picture(3)
    image.save(tmp_path / "a.png")
    (tmp_path / "b.webp").write_bytes(encoded(image, "WEBP", lossless=True))
    uri = "data:image/png;base64," + base64.b64encode(encoded(image, "PNG")).decode()
    found = {
        fingerprint(where) for where in (str(tmp_path / "a.png"), str(tmp_path / "b.webp"), uri)
    }
    assert len(found) == 1
    image.putpixel((0, 0), (1, 2, 3))
    image.save(tmp_path / "c.png")
    assert fingerprint(str(tmp_path / "c.png")).sha256 != next(iter(found)).sha256


def test_what_cannot_be_read_stops(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        fingerprint(str(tmp_path / "none.png"))


def test_texts_are_the_same_but_for_marks_case_spacing_and_punctuation() -> None:
    first = "<image>\nWhere is the  Red cube?"
    assert normal_text(first) == "where is the red cube"
    assert text_hash(first) == text_hash("where is the red CUBE")
    assert text_hash("(A) left (B) right") != text_hash("(A) right (B) left")
    assert normal_text("at 0.5, \uff10.\uff15") == "at 0 5 0 5"


@given(st.text())
def test_normal_texts_stay_as_they_are(text: str) -> None:
    assert normal_text(normal_text(text)) == normal_text(text)
