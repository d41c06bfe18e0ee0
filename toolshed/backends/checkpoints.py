"""Loading a model for a tool: where it runs, in which numbers, and what is said when it cannot.

Every loader goes through ``pretrained``: a checkpoint that lacks weights of the model is refused,
because transformers would fill them at random and the tool would go on answering.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from toolshed.errors import ConfigError, ToolFailure, first_line
from toolshed.serving.batches import is_out_of_memory

if TYPE_CHECKING:
    import torch

REVISIONS = {
    "allenai/Molmo-7B-D-0924": "cab33fb7f1a40091911f81165f8481920621948f",
    "facebook/sam2.1-hiera-small": "ee5bba1d82bb8749febdf90f45e84b687142ba03",
    "Zhoues/RoboRefer-8B-SFT": "bd04070786084c624156194d89333c375b274b28",
}
"""Commits of the hub that the release was run with; other checkpoints have none to be held to."""
_OF_THE_USER = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP),
        *(errno.ENAMETOOLONG, errno.EINVAL),
        # A machine without the hub, where a repository's name is as wrong as a path.
        *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH),
    )
)
"""Numbers of the errors that a wrong path or repository gives; others are the machine's."""
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
    """Say of a checkpoint that cannot be read which it is and what to do.

    ConfigError where another ``model_id`` helps; MemoryError and ToolFailure where the machine had
    too little of something, so that the same may succeed later.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(_lives_in(environment, str(error))) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = first_line(error)[:300]
        causes = list(_causes(error))
        if any(map(_is_memory, causes)):
            raise MemoryError(f"{model_id}: {first}") from error
        if any(map(_is_of_the_machine, causes)):
            raise ToolFailure("load_failed", f"{model_id} could not be read: {first}") from error
        where = "the folder" if Path(model_id).exists() else "neither a folder nor a download"
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
        if _is_memory(error):
            raise MemoryError(str(error)) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of: libraries wrap the system's errors in their own."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _is_memory(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    # What torch says where the host's memory is full.
    return full or is_out_of_memory(error) or "can't allocate memory" in str(error)


def _is_of_the_machine(error: BaseException) -> bool:
    if isinstance(error, TimeoutError):
        return True
    # Names that no server knows have negative numbers; a library's own errors have none.
    number = error.errno if isinstance(error, OSError) else None
    return number is not None and number > 0 and number not in _OF_THE_USER
