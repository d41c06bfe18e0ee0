"""What the ranks of one training run say to each other; one process alone is a run of one rank."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sft.render import Renderer
from sft.sample import TrainingSample
from toolshed.errors import ConfigError

_PR_SET_PDEATHSIG = 1


def join_ranks(device: str) -> None:
    """Meet the other ranks that torchrun started: gloo on CPUs, NCCL on GPUs."""
    import torch
    from torch import distributed

    end_with_launcher()
    if distributed.is_initialized():
        return
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in alone.items()})
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(own_device(device)))
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    atexit.register(_part)


def end_with_launcher() -> None:
    """Let the system end this process when torchrun, which started it in a session of its own, is
    gone: a job's kill reaches torchrun and not always its ranks, which would train on."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _part() -> None:
    """Join gloo's threads while there is an interpreter: one that is still letting go of the last
    tensors when Python ends aborts the process, after everything was done (seen: 1 of 12 runs on a
    busy machine)."""
    distributed = _group()
    if distributed:
        distributed.destroy_process_group()


def check_launch(zero: int, batches: Mapping[str, int] | None = None) -> None:
    """ConfigError where torchrun started several ranks that would not know of each other, or more
    of them than a step has samples.

    ``batches``: samples of a step over all ranks, whatever their number, by the key that says so.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1 and not zero:
        raise ConfigError(
            f"torchrun started {ranks} ranks, and learner.shard.zero=0 trains on one device; set "
            "learner.shard.zero=2 or 3, or start without torchrun"
        )
    for key, batch in (batches or {}).items():
        if batch < ranks:
            raise ConfigError(
                f"{key}={batch} cannot be divided over {ranks} ranks, since each needs a sample; "
                f"give {ranks} or more, or start at most {batch} ranks"
            )


def own_device(device: str) -> str:
    """``cuda`` under torchrun is this rank's own GPU."""
    local = os.environ.get("LOCAL_RANK", "")
    return f"cuda:{local}" if device == "cuda" and local else device


def rank() -> int:
    """This process's number, 0 in a process alone."""
    distributed = _group()
    return distributed.get_rank() if distributed else 0


def num_ranks() -> int:
    distributed = _group()
    return distributed.get_world_size() if distributed else 1


def told_by_all(word: Any) -> list[Any]:
    """What each rank says, in their order; every rank must ask at the same place."""
    distributed = _group()
    if not distributed or num_ranks() == 1:
        return [word]
    words: list[Any] = [None] * num_ranks()
    distributed.all_gather_object(words, word)
    return words


def _group() -> Any:
    """torch's own, once ranks have met; asking does not load torch."""
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_initialized() else None


def own_share(
    samples: Sequence[TrainingSample], renderer: Renderer, *, whole_groups: bool = False
) -> list[TrainingSample]:
    """This rank's part of a step's samples, which every rank knows."""
    return shares(samples, renderer, whole_groups=whole_groups)[rank()]


def shares(
    samples: Sequence[TrainingSample], renderer: Renderer, *, whole_groups: bool = False
) -> list[list[TrainingSample]]:
    """A step's samples divided over ranks, about equal places for each.

    ``whole_groups`` keeps samples with the same prompt on one rank, so that its places count once.
    """
    groups: dict[object, list[TrainingSample]] = {}
    for index, sample in enumerate(samples):
        key = sample.token_ids[: sample.spans[0].end] if whole_groups else index
        groups.setdefault(key, []).append(sample)

    def places(group: list[TrainingSample]) -> int:
        sizes = [len(renderer.expand(s.token_ids, s.images).token_ids) for s in group]
        return sum(sizes) - (len(group) - 1) * group[0].spans[0].end * whole_groups

    parts: list[list[TrainingSample]] = [[] for _ in range(num_ranks())]
    loads = [0] * num_ranks()
    for group in sorted(groups.values(), key=lambda group: -places(group)):
        least = loads.index(min(loads))
        parts[least] += group
        loads[least] += places(group)
    return parts
