"""Peak memory of loss and backward pass over the published vocabulary, against whole logits.

``loss_memory_ratio``: 8,192 positions, all of them trained, hidden 2048, vocabulary 151,936,
float32. Both sides are the real code on torch's meta device, where tensors have sizes and no
contents; the account adds every storage when an operation returns it and takes it away when the
last tensor of it goes, so the peak is that of the allocator without its rounding. What the head's
gradient holds is taken off on both sides; parameters and hidden states are there before. The naive
side is ``cross_entropy(head(hidden).float(), targets)``, whose logits go as soon as its
log-softmax is there. The account does not see what a kernel allocates within one operation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sft.logprobs import token_logprobs

POSITIONS, HIDDEN, VOCABULARY = 8192, 2048, 151_936
_Step = Callable[[Any, Tensor, Tensor], Tensor]


class Account(TorchDispatchMode):
    """Bytes of the storages that operations make inside; ``peak`` is the most at any time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # What an operation reads was there before, or is counted already.
        for each in tree_leaves((args, kwargs)):
            self._add(each, counts=False)
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            self._add(each, counts=True)
        return out

    def _add(self, tensor: Any, *, counts: bool) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes() if counts else 0
        self.held += size
        self.peak = max(self.peak, self.held)
        # An address is used again once its storage is gone.
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def _ours(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    model = SimpleNamespace(get_output_embeddings=lambda: head)
    return -token_logprobs(model, hidden, targets, (), 1.0).mean()


def _naive(head: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets)


def peak_bytes(step: _Step) -> int:
    """Of loss and backward pass above parameters, hidden states and the head's gradient."""
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False, device="meta")
    hidden = torch.zeros(POSITIONS, HIDDEN, device="meta", requires_grad=True)
    targets = torch.zeros(POSITIONS, dtype=torch.int64, device="meta")
    with Account() as account:
        step(head, hidden, targets).backward()
    # A gradient is as large as what it belongs to.
    peak: int = account.peak - head.weight.nbytes
    return peak


def loss_memory(*, handicapped: bool = False) -> dict[str, float]:
    """The ratio and both sides in GB; ``handicapped``: a chunk as large as all logits."""
    ours, naive = peak_bytes(_ours), peak_bytes(_naive)
    figures = {
        "loss_memory_ratio": ours / naive,
        "loss_memory_gb": ours / 1e9,
        "naive_loss_memory_gb": naive / 1e9,
    }
    if handicapped:
        with patch("sft.logprobs.CHUNK", POSITIONS * VOCABULARY):
            figures["handicapped_loss_memory_ratio"] = peak_bytes(_ours) / naive
    return figures
