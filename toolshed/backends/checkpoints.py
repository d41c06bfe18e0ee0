"""Loading a model for a tool: where it runs, in which numbers, and what is said when it cannot.

Every loader goes through ``pretrained``: a checkpoint that lacks weights of the model is refused,
because transformers would fill them at random and the tool would go on answering.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from toolshed.errors import ConfigError

if TYPE_CHECKING:
    import torch

REVISIONS = {
    "allenai/Molmo-7B-D-0924": "cab33fb7f1a40091911f81165f8481920621948f",
    "facebook/sam2.1-hiera-small": "ee5bba1d82bb8749febdf90f45e84b687142ba03",
    "Zhoues/RoboRefer-8B-SFT": "bd04070786084c624156194d89333c375b274b28",
}
"""Commits of the hub that the release was run with; other checkpoints have none to be held to."""
DTYPES = ("auto", "float32", "bfloat16", "float16")


def needed(module: str, environment: str) -> ModuleType:
    """Import a package that only a tool environment has; ConfigError naming the environment."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        told = f"no package {error.name or module!r} here ({error})"
        raise ConfigError(_lives_in(environment, told)) from error


def transformers_class(name: str, environment: str) -> Any:
    """A class of transformers, which looks for its own packages only when a class is asked for."""
    module = needed("transformers", environment)
    try:
        return getattr(module, name)
    except (ImportError, AttributeError) as error:
        told = f"transformers {module.__version__} has no {name} here ({error.__cause__ or error})"
        raise ConfigError(_lives_in(environment, told)) from error


def _lives_in(environment: str, told: str) -> str:
    shown = " ".join(told.split())[:300]
    return (
        f"{shown}; this back-end lives in the tool environment {environment!r}: make it with "
        f"'toolshed env create {environment}' and write 'environment: {environment}'"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a model runs, and in which numbers."""

    device: torch.device
    dtype: torch.dtype | None
    """None is the checkpoint's own."""
    environment: str
    """Tool environment that has the model's packages."""

    @classmethod
    def of(cls, device: str, dtype: str, environment: str) -> Placement:
        """From the words of a tool config: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; DTYPES."""
        torch = needed("torch", environment)
        if dtype not in DTYPES:
            raise ConfigError(f"dtype = {dtype!r}; write one of {', '.join(DTYPES)}")
        numbers = None if dtype == "auto" else getattr(torch, dtype)
        return cls(device=_device(device, torch), dtype=numbers, environment=environment)


def _device(word: str, torch: Any) -> Any:
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError as error:
        raise ConfigError(f"device = {word!r}; write auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device = {word!r}, but this process sees {torch.cuda.device_count()} GPUs; "
            "write 'device: auto', or give the family a share with 'gpus:'"
        )
    return device


def pretrained(
    model_class: Any,
    model_id: str,
    placement: Placement,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A model in evaluation mode where it is to run.

    ``model_id`` is a folder or a repository of the hub, there at ``revision`` or at the commit that
    the release was run with. ConfigError where it cannot be had or is another model's checkpoint.
    """
    with found(model_id, placement.environment):
        model, info = model_class.from_pretrained(
            model_id,
            revision=_revision(model_id, revision),
            dtype="auto" if placement.dtype is None else placement.dtype,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    missing = [*sorted(info["missing_keys"]), *(str(each[0]) for each in info["mismatched_keys"])]
    if missing:
        raise ConfigError(
            f"{model_id} is no checkpoint of {model_class.__name__}: it lacks {len(missing)} of "
            f"its weights, first {missing[0]}; correct 'model_id'"
        )
    with memory_errors():
        return model.to(placement.device).eval()


def processor_of(
    processor_class: Any,
    model_id: str,
    placement: Placement,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """What turns pictures and text into a model's inputs, from the model's own folder."""
    with found(model_id, placement.environment):
        return processor_class.from_pretrained(
            model_id,
            revision=_revision(model_id, revision),
            trust_remote_code=trust_remote_code,
        )


def _revision(model_id: str, revision: str | None) -> str:
    return revision or REVISIONS.get(model_id, "main")


@contextlib.contextmanager
def found(model_id: str, environment: str) -> Iterator[None]:
    """Say of a checkpoint that cannot be read which it is and what to do."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(_lives_in(environment, str(error))) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        where = "the folder" if Path(model_id).exists() else "neither a folder nor a download"
        first = str(error).strip().split("\n")[0][:300]
        raise ConfigError(
            f"model_id = {model_id!r} cannot be loaded ({where}): {first}; give the folder of a "
            "checkpoint, or a repository of the hub that this machine can reach"
        ) from error


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Tell a full device apart from a bug, and leave its memory as it was."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
