"""Hashes notice the smallest change that can change an answer, and nothing else."""

from __future__ import annotations

import base64
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rl import identity
from rl.identity import policy_identity, question_identity
from rl.types import Question
from toolshed.errors import ConfigError
from toolshed.images import ImageSource
from toolshed.types import Message


def weights(folder: Path) -> Path:
    """Three tensors of a megabyte and a half each: the middle one is in neither end."""
    folder.mkdir()
    tensors = {name: torch.arange(400_000, dtype=torch.float32) for name in "abc"}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(("whole_bytes", "place"), [(1 << 30, 250_000), (0, 0)])
def test_one_weight_in_the_middle_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int, place: int
) -> None:
    monkeypatch.setattr(identity, "WHOLE_BYTES", whole_bytes)
    folder = weights(tmp_path / "a")
    before = policy_identity(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["b"][place] += 1
    save_file(tensors, folder / "model.safetensors")
    assert policy_identity(folder) != before


@pytest.mark.parametrize("whole_bytes", [1 << 30, 0])
def test_a_copy_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(identity, "WHOLE_BYTES", whole_bytes)
    folder = weights(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    assert policy_identity(folder) == policy_identity(tmp_path / "b")


def test_a_large_file_that_holds_no_tensors_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "WHOLE_BYTES", 0)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ConfigError, match="no safetensors file"):
        policy_identity(tmp_path)


def question(picture: Path) -> Question:
    return Question(
        id="q/0",
        source="tabletop-depth",
        kind="number",
        messages=(Message(role="user", text="<image>How far?", num_images=1),),
        images=(ImageSource(image=str(picture)),),
        target=0.5,
        extra={"b": 1, "a": [2]},
    )


def test_everything_that_is_asked_and_scored_counts(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"pixels")
    one = question(picture)
    (words,) = one.messages
    uri = "data:image/png;base64," + base64.b64encode(b"other").decode()
    changed = [
        replace(one, messages=(replace(words, text="<image>How near?"),)),
        replace(one, target=0.6),
        replace(one, kind="yesno"),
        replace(one, scene=3),
        replace(one, extra={"b": 2}),
        replace(one, images=(ImageSource(image=uri),)),
        replace(one, images=(replace(one.images[0], depth=str(picture)),)),
        replace(one, images=(replace(one.images[0], focal_length_px=200.0),)),
    ]
    hashes = {question_identity(each) for each in (one, *changed)}
    assert len(hashes) == len(changed) + 1
    picture.write_bytes(b"pixelz")
    assert question_identity(one) not in hashes


def test_id_and_place_do_not_count(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"pixels")
    here, there = question(tmp_path / "a.png"), question(tmp_path / "b.png")
    other = replace(there, id="r/7", extra={"a": [2], "b": 1})
    assert question_identity(here) == question_identity(other)


def test_a_missing_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        question_identity(question(tmp_path / "none.png"))
