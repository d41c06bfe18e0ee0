"""Attention over rows in which answers share their prompt, as an implementation for transformers.

A prompt attends to itself, and each answer to the prompt and itself. Every part is one ordinary
causal attention, aligned at its end, so no mask of the whole row exists: at 8k places and 8
answers it would hold 64 M entries, of which 3 in 4 hide something. Gradients of the siblings add up
in the prompt's keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from sft.batch import PrefixGroup
from toolshed.errors import ConfigError

NAME = "shared_prefix"
"""Of the implementation; without groups it is transformers' ``sdpa``."""


def share_prefixes(model: Any) -> None:
    """Let the language model of ``model`` read rows of groups; other rows go on as before.

    Raises ConfigError where some of its layers look through a sliding window.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.model.language_model.config
    if set(config.layer_types) != {"full_attention"}:
        raise ConfigError(
            "learner.shared_prefix=true needs full attention in every layer, and this model has "
            f"{', '.join(sorted(set(config.layer_types)))}; set learner.shared_prefix=false"
        )
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix_groups: tuple[PrefixGroup, ...] = (),
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer; returns (B, T, heads, size).

    query: (B, heads, T, size); key and value: (B, key heads, T, size).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not prefix_groups:
        told: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return told
    assert attention_mask is None and not rest.get("dropout"), "groups go without mask and dropout"
    out = group_attention(query, key, value, prefix_groups, scaling)
    return out.transpose(1, 2).contiguous(), None


def group_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: tuple[PrefixGroup, ...],
    scale: float | None = None,
) -> Tensor:
    """Attention of one row (B = 1) of groups, shape (1, heads, T, size)."""
    assert query.shape[0] == 1, query.shape
    repeats = query.shape[1] // key.shape[1]
    sizes = [size for group in groups for size in (group.prompt, *group.answers)]
    parts = zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True)
    out: list[Tensor] = []
    for group in groups:
        prompt_q, prompt_k, prompt_v = next(parts)
        prompt_k, prompt_v = _repeat(prompt_k, repeats), _repeat(prompt_v, repeats)
        out.append(
            scaled_dot_product_attention(prompt_q, prompt_k, prompt_v, is_causal=True, scale=scale)
        )
        for size in group.answers:
            own_q, own_k, own_v = next(parts)
            out.append(
                scaled_dot_product_attention(
                    own_q,
                    torch.cat([prompt_k, _repeat(own_k, repeats)], dim=2),
                    torch.cat([prompt_v, _repeat(own_v, repeats)], dim=2),
                    attn_mask=causal_lower_right(size, group.prompt + size),
                    scale=scale,
                )
            )
    return torch.cat(out, dim=2)


def _repeat(heads: Tensor, repeats: int) -> Tensor:
    """Key heads -> one per query head; shape (1, heads, T, size)."""
    return heads[:, :, None].expand(-1, -1, repeats, -1, -1).flatten(1, 2)
