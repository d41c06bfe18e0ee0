"""Where models run, in which numbers, and the one sentence where they cannot be had."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from toolshed.backend import BackEnd, BackEndSpec, Voice
from toolshed.backends.checkpoints import (
    Placement,
    memory_errors,
    needed,
    transformers_class,
)
from toolshed.errors import ConfigError
from toolshed.registry import FAMILIES

VOICE = Voice(profile="released", defects="fixed")
ELSEWHERE = [
    (family, word)
    for family in ("roborefer", "vlm", "sam2", "depth_estimator", "grasp_generator")
    for word, entry in FAMILIES[family].back_ends.items()
    if entry.environment is not None
]


def test_words_of_a_config_become_a_device_and_numbers() -> None:
    assert Placement.of("cpu", "bfloat16", "sam2").dtype is torch.bfloat16
    assert Placement.of("auto", "auto", "sam2").dtype is None
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    assert Placement.of("auto", "float32", "sam2").device.type == wanted
    for device, dtype, told in (
        ("cpu", "fp8", "dtype = 'fp8'; write one of auto, float32"),
        ("gpu", "auto", "device = 'gpu'; write auto"),
        ("cuda:99", "auto", "this process sees"),
    ):
        with pytest.raises(ConfigError) as caught:
            Placement.of(device, dtype, "sam2")
        assert told in str(caught.value)


def test_a_full_device_is_told_apart_from_a_bug() -> None:
    with pytest.raises(MemoryError, match="full"), memory_errors():
        raise torch.OutOfMemoryError("full")
    with pytest.raises(MemoryError), memory_errors():
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="a bug"), memory_errors():
        raise RuntimeError("a bug")


def test_a_missing_package_names_its_environment() -> None:
    with pytest.raises(ConfigError, match=r"'toolshed env create sam2'.*'environment: sam2'"):
        needed("no_such_package", "sam2")
    with pytest.raises(ConfigError, match=r"has no NoSuchModel here.*'toolshed env create vlm'"):
        transformers_class("NoSuchModel", "vlm")


@pytest.mark.parametrize(("family", "word"), ELSEWHERE)
def test_every_real_back_end_names_its_environment_where_it_cannot_load(
    family: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an interpreter without its packages, which this one is made to be."""
    entry = FAMILIES[family].back_ends[word]
    for name in ("torch", "transformers", "llava", "grasp_gen.grasp_server", "zmq"):
        monkeypatch.setitem(sys.modules, name, None)
    arguments: dict[str, object] = {**entry.arguments}
    if word == "real" and family == "vlm":
        arguments["trust_remote_code"] = True
    if word == "real" and family == "grasp_generator":
        arguments["gripper_config"] = __file__
    spec = BackEndSpec(
        name=family,
        location=entry.location,
        arguments=arguments,  # type: ignore[arg-type]
        methods=(),
        voice=VOICE,
    )
    with pytest.raises(ConfigError, match=f"'toolshed env create {entry.environment}'"):
        BackEnd(spec)


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed here"
)
@pytest.mark.parametrize("word", ["sam2:Sam2", "sam3:Sam3", "depth_pro:DepthPro", "molmo2:Molmo2"])
def test_without_torchvision_the_environment_is_named(word: str) -> None:
    spec = BackEndSpec(
        name="x", location=f"toolshed.backends.{word}", arguments={}, methods=(), voice=VOICE
    )
    with pytest.raises(ConfigError, match=r"no package 'torchvision' here.*toolshed env create"):
        BackEnd(spec)
