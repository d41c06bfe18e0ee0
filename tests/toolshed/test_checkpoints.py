"""Where models run, in which numbers, and the one sentence where they cannot be had."""

from __future__ import annotations

import errno
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from toolshed.backend import BackEnd, BackEndSpec, Voice
from toolshed.backends.checkpoints import (
    Placement,
    found,
    memory_errors,
    needed,
    transformers_class,
)
from toolshed.errors import ConfigError, ToolFailure
from toolshed.registry import FAMILIES
from toolshed.types import Json

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


def test_a_full_or_busy_machine_at_load_is_not_the_users_error() -> None:
    with pytest.raises(MemoryError, match="org/model: CUDA out of memory"), found("org/model", "x"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(MemoryError), found("org/model", "x"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError), found("org/model", "x"):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    for number in (errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOSPC):
        with pytest.raises(ToolFailure, match="load_failed: org/model"), found("org/model", "x"):
            # As transformers wraps what the system says.
            try:
                raise OSError(number, "busy")
            except OSError as error:
                raise OSError("unable to load the weights") from error


def test_a_wrong_path_or_repository_stays_the_users_error(tmp_path: Path) -> None:
    for error in (
        FileNotFoundError(errno.ENOENT, "no such file"),
        NotADirectoryError(errno.ENOTDIR, "no folder"),
        PermissionError(errno.EACCES, "not yours"),
        ConnectionRefusedError(errno.ECONNREFUSED, "no hub"),
        OSError("org/model is no local folder and no model identifier"),
        RuntimeError("size mismatch"),
    ):
        with pytest.raises(ConfigError, match="neither a folder nor a download"):  # noqa: SIM117
            with found("org/model", "x"):
                raise error
    with pytest.raises(ConfigError, match="cannot be loaded"), found(str(tmp_path / "no"), "x"):
        (tmp_path / "no").read_bytes()


@pytest.mark.parametrize(
    ("trouble", "kind", "told"),
    [
        ({"troubel": ""}, ConfigError, r"x: .*:Probing cannot be made: .*'troubel'"),
        ({"trouble": "type"}, TypeError, "has no len"),
        ({"trouble": "memory"}, ToolFailure, "out_of_memory: x: CUDA out of memory"),
    ],
)
def test_whose_error_it_is_that_a_back_end_cannot_be_made(
    trouble: dict[str, Json], kind: type[Exception], told: str
) -> None:
    location = "tests.toolshed.bridge_tools:Probing"
    spec = BackEndSpec(name="x", location=location, arguments=trouble, methods=(), voice=VOICE)
    with pytest.raises(kind, match=told):
        BackEnd(spec)


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
