"""Log-probabilities of chosen tokens over a large vocabulary, in the memory of one chunk of logits.

One buffer holds a chunk's logits, then their log-probabilities, then the gradient of the logits,
and the head's gradient is summed in place, as in Liger Kernel (arXiv 2410.10989) and Cut Your
Losses (arXiv 2411.09009). Those take the gradient in the forward pass; here it waits for the
backward pass, because the losses of RL know a token's weight only when they have its
log-probability. All chunks but the last compute their logits again; the last one's are kept, since
nothing else is when their turn comes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 2**27
"""Logits that are held at a time."""
_BLOCK = {"cpu": 2**20}
"""Logits of one pass by device: what stays in a CPU's cache; elsewhere what needs few kernels."""
_LARGE_BLOCK = 2**24


def token_logprobs(
    model: Any, hidden_ND: Tensor, targets_N: Tensor, banned: tuple[int, ...], temperature: float
) -> Tensor:
    """Log-probability of each target, shape (N,), never holding more than a chunk of logits.

    Logits are divided by the temperature and banned tokens removed, as the sampler does. The
    gradient can be taken once.
    """
    head = model.get_output_embeddings()
    assert head.bias is None, "a head with a bias is not implemented"
    if hasattr(head.weight, "ds_id"):
        return _of_cut_head(head, hidden_ND, targets_N, banned, temperature)
    of_head: Any = _HeadLogprobs
    chosen: Tensor = of_head.apply(hidden_ND, head.weight, targets_N, banned, temperature)
    return chosen


def _of_cut_head(
    head: Any, hidden_ND: Tensor, targets_N: Tensor, banned: tuple[int, ...], temperature: float
) -> Tensor:
    """The same where ZeRO-3 cuts the head over ranks, and gathers it whenever it is called."""
    from torch.utils.checkpoint import checkpoint

    of_logits: Any = _ChosenLogprobs

    def chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        chosen: Tensor = of_logits.apply(head(hidden).float(), targets, banned, temperature)[0]
        return chosen

    rows = max(1, CHUNK // head.out_features)
    *early, last = zip(torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True)
    parts = [checkpoint(chunk, *part, use_reentrant=False) for part in early]
    return torch.cat([*parts, chunk(*last)])


class _HeadLogprobs(torch.autograd.Function):
    """Hidden states (N, D), head (V, D), targets (N,) -> log-probabilities (N,)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        banned: tuple[int, ...],
        temperature: float,
    ) -> Tensor:
        num, rows = len(hidden), max(1, CHUNK // len(weight))
        logits = hidden.new_empty((min(num, rows), len(weight)), dtype=torch.float32)
        chosen = []
        for part in _parts(num, rows):
            own = logits[: len(hidden[part])]
            _write_logits(own, hidden[part], weight)
            chosen.append(_to_logprobs(own, targets[part], banned, temperature))
        ctx.save_for_backward(hidden, weight, targets, logits)
        ctx.rows, ctx.banned, ctx.temperature = rows, banned, temperature
        return torch.cat(chosen)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, whole = ctx.saved_tensors
        of_hidden, of_weight = torch.empty_like(hidden), None
        *_, last = parts = _parts(len(hidden), ctx.rows)
        for part in reversed(parts):
            logits = whole[: len(hidden[part])]
            if part != last:
                _write_logits(logits, hidden[part], weight)
                _to_logprobs(logits, targets[part], ctx.banned, ctx.temperature)
            _to_gradient(logits, targets[part], gradients[0][part], ctx.banned, ctx.temperature)
            gradient = logits.to(weight.dtype)
            torch.mm(gradient, weight, out=of_hidden[part])
            if not ctx.needs_input_grad[1]:
                continue
            if of_weight is None:
                of_weight = gradient.t() @ hidden[part]
            else:
                of_weight.addmm_(gradient.t(), hidden[part])
        return of_hidden, of_weight, None, None, None


def _parts(num: int, rows: int) -> list[slice]:
    """Of ``num`` positions, at most ``rows`` each; one that is empty where there are none."""
    return [slice(begin, min(num, begin + rows)) for begin in range(0, max(1, num), rows)]


def _write_logits(logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
    if logits.dtype == weight.dtype:
        torch.mm(hidden, weight.t(), out=logits)
    else:
        logits.copy_(torch.mm(hidden, weight.t()))


class _ChosenLogprobs(torch.autograd.Function):
    """Log-softmax of logits (N, V), of which each row's target is read; overwrites the logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, banned: tuple[int, ...], temperature: float
    ) -> tuple[Tensor, Tensor]:
        chosen = _to_logprobs(logits, targets, banned, temperature)
        ctx.mark_dirty(logits)
        ctx.save_for_backward(logits, targets)
        ctx.set_materialize_grads(False)
        ctx.banned, ctx.temperature = banned, temperature
        return chosen, logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logprobs, targets = ctx.saved_tensors
        _to_gradient(logprobs, targets, gradients[0], ctx.banned, ctx.temperature)
        return logprobs, None, None, None


def _to_logprobs(
    logits: Tensor, targets: Tensor, banned: tuple[int, ...], temperature: float
) -> Tensor:
    """Log-softmax in place; returns the targets' entries."""
    if temperature != 1.0:
        logits /= temperature
    for block in torch.split(logits, _block_rows(logits)):
        block[:, list(banned)] = float("-inf")
        block.copy_(torch.log_softmax(block, dim=-1))
    return logits.gather(1, targets[:, None])[:, 0]


def _to_gradient(
    logprobs: Tensor,
    targets: Tensor,
    gradient: Tensor,
    banned: tuple[int, ...],
    temperature: float,
) -> None:
    """In place from log-probabilities to the gradient of the logits."""
    rows = _block_rows(logprobs)
    parts = (torch.split(each, rows) for each in (logprobs, targets, gradient))
    for block, target, weight in zip(*parts, strict=True):
        chosen = torch.zeros_like(block).scatter_(1, target[:, None], weight[:, None])
        block.copy_(torch._log_softmax_backward_data(chosen, block, 1, block.dtype))
        block[:, list(banned)] = 0.0
    if temperature != 1.0:
        logprobs /= temperature


def _block_rows(logits: Tensor) -> int:
    block = _BLOCK.get(logits.device.type, _LARGE_BLOCK)
    return max(1, block // logits.shape[1])
