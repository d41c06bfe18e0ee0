"""Log-probabilities of chosen tokens over a large vocabulary, in the memory of one chunk of logits.

One buffer holds a chunk's logits, then their log-probabilities, then the gradient of the logits, as
in Liger Kernel (arXiv 2410.10989) and Cut Your Losses (arXiv 2411.09009). Those take the gradient
in the forward pass; here it waits for the backward pass, because the losses of RL know a token's
weight only when they have its log-probability. All chunks but the last compute their logits again;
the last one's buffer is free by then.
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
    from torch.utils.checkpoint import checkpoint

    head = model.get_output_embeddings()

    def chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        # The head is called, because ZeRO-3 gathers its weight then.
        logits = head(hidden).float()
        chosen, _ = _ChosenLogprobs.apply(logits, targets, banned, temperature)
        return chosen

    rows = max(1, CHUNK // head.weight.shape[0])
    *early, last = zip(
        torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True
    )
    parts = [checkpoint(chunk, *part, use_reentrant=False) for part in early]
    return torch.cat([*parts, chunk(*last)]) if parts else chunk(*last)


class _ChosenLogprobs(torch.autograd.Function):
    """Log-softmax of logits (N, V), of which each row's target is read; overwrites the logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, banned: tuple[int, ...], temperature: float
    ) -> tuple[Tensor, Tensor]:
        if temperature != 1.0:
            logits /= temperature
        for block in torch.split(logits, _block_rows(logits)):
            block[:, list(banned)] = float("-inf")
            block.copy_(torch.log_softmax(block, dim=-1))
        ctx.mark_dirty(logits)
        ctx.save_for_backward(logits, targets)
        ctx.set_materialize_grads(False)
        ctx.banned, ctx.temperature = banned, temperature
        return logits.gather(1, targets[:, None])[:, 0], logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        logprobs, targets = ctx.saved_tensors
        rows = _block_rows(logprobs)
        parts = (torch.split(each, rows) for each in (logprobs, targets, gradients[0]))
        for block, target, gradient in zip(*parts, strict=True):
            chosen = torch.zeros_like(block).scatter_(1, target[:, None], gradient[:, None])
            block.copy_(torch._log_softmax_backward_data(chosen, block, 1, block.dtype))
            block[:, list(ctx.banned)] = 0.0
        if ctx.temperature != 1.0:
            logprobs /= ctx.temperature
        return logprobs, None, None, None


def _block_rows(logits: Tensor) -> int:
    block = _BLOCK.get(logits.device.type, _LARGE_BLOCK)
    return max(1, block // logits.shape[1])
