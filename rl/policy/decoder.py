"""The text half of Qwen2.5-VL over a cache with fixed slots: what decoding needs and no more.

A decode step always runs on tiles of ``TILE`` rows, empty rows included, so the shapes of every
matrix product, and with them each row's bits, are the same whoever shares the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sft.lora import merged_weight

TILE = 32
_LENGTH_STEP = 64
"""Attention reads the cache up to a multiple of this many positions."""


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_in: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    out: Tensor
    norm_mlp: Tensor
    gate_up: Tensor
    down: Tensor


class Decoder:
    """Fused copies of a model's text weights and the key/value cache of ``num_slots`` rows."""

    def __init__(self, model: Any, *, num_slots: int, max_length: int) -> None:
        config = model.config.text_config
        self.num_heads = int(config.num_attention_heads)
        self.num_kv = int(config.num_key_value_heads)
        self.head_dim = int(config.hidden_size) // self.num_heads
        self.eps = float(config.rms_norm_eps)
        self.sections = list(config.rope_parameters["mrope_section"])
        self.num_slots = -(-num_slots // TILE) * TILE
        self.max_length = -(-max_length // _LENGTH_STEP) * _LENGTH_STEP
        self.load(model)
        shape = (self.num_slots, self.num_kv, self.max_length, self.head_dim)
        like = self.embed
        self.keys = [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in self.layers]
        self.values = [torch.zeros_like(keys) for keys in self.keys]

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Copy the weights, adapters merged; the model may go on training afterwards."""
        text = model.model.language_model
        self.embed: Tensor = text.embed_tokens.weight.detach().clone()
        self.head: Tensor = model.get_output_embeddings().weight.detach().clone()
        self.norm: Tensor = text.norm.weight.detach().clone()
        self.inv_freq: Tensor = text.rotary_emb.inv_freq.detach().clone().float()
        self.layers = [_fuse(layer) for layer in text.layers]

    def rotary(self, positions_3N: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of multi-axis rotary positions, shape (N, head_dim)."""
        freqs = positions_3N[..., None].float() * self.inv_freq
        parts = torch.split(freqs, self.sections, dim=-1)
        freq = torch.cat([part[i % 3] for i, part in enumerate(parts)], dim=-1)
        freq = torch.cat((freq, freq), dim=-1)
        return freq.cos().to(self.embed.dtype), freq.sin().to(self.embed.dtype)

    @torch.inference_mode()
    def prefill(self, slot: int, start: int, embeds_ND: Tensor, positions_3N: Tensor) -> Tensor:
        """Append N tokens to one slot; returns the last token's logits, shape (vocabulary,)."""
        num = embeds_ND.shape[0]
        cos, sin = self.rotary(positions_3N)
        end = start + num
        mask = torch.ones((num, end), dtype=torch.bool, device=embeds_ND.device).tril(start)
        x = embeds_ND
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, cos, sin)
            self.keys[i][slot, :, start:end] = k.transpose(0, 1)
            self.values[i][slot, :, start:end] = v.transpose(0, 1)
            attended = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None],
                self.keys[i][slot : slot + 1, :, :end],
                self.values[i][slot : slot + 1, :, :end],
                attn_mask=mask,
                enable_gqa=True,
            )[0].transpose(0, 1)
            x = self._finish(layer, x, attended.reshape(num, -1))
        return self._logits(x[-1:])[0]

    @torch.inference_mode()
    def step(self, tile: int, tokens: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
        """One token for each row of a tile; returns logits, shape (TILE, vocabulary).

        tokens, lengths, positions: shape (TILE,). A row's key and value go to place ``length``;
        a row without work names a place that is still free.
        """
        rows = slice(tile * TILE, (tile + 1) * TILE)
        cos, sin = self.rotary(positions.expand(3, TILE))
        end = min(self.max_length, -(-(int(lengths.max()) + 1) // _LENGTH_STEP) * _LENGTH_STEP)
        hidden = torch.arange(end, device=lengths.device)[None, :] > lengths[:, None]
        bias = torch.zeros((TILE, end), dtype=self.embed.dtype, device=lengths.device)
        bias = bias.masked_fill_(hidden, float("-inf"))[:, None, None, :]
        x = self.embed[tokens]
        index = torch.arange(TILE, device=lengths.device)
        group = self.num_heads // self.num_kv
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, cos, sin)
            keys, values = self.keys[i][rows], self.values[i][rows]
            keys[index, :, lengths] = k
            values[index, :, lengths] = v
            # Heads that share keys stand as queries of one head: no key is copied.
            q = q.view(TILE, self.num_kv, group, self.head_dim)
            attended = F.scaled_dot_product_attention(
                q, keys[:, :, :end], values[:, :, :end], attn_mask=bias
            )
            x = self._finish(layer, x, attended.reshape(TILE, -1))
        return self._logits(x)

    def copy_slot(self, slot: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a slot's first ``length`` places, to be put into another slot."""
        return [
            (k[slot, :, :length].clone(), v[slot, :, :length].clone())
            for k, v in zip(self.keys, self.values, strict=True)
        ]

    def fill_slot(self, slot: int, kept: list[tuple[Tensor, Tensor]]) -> None:
        for i, (key, value) in enumerate(kept):
            self.keys[i][slot, :, : key.shape[1]] = key
            self.values[i][slot, :, : value.shape[1]] = value

    def _project(
        self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys and plain values, each (N, heads, head_dim)."""
        h = F.rms_norm(x, layer.norm_in.shape, layer.norm_in, self.eps)
        qkv = F.linear(h, layer.qkv_weight, layer.qkv_bias)
        qkv = qkv.view(len(x), self.num_heads + 2 * self.num_kv, self.head_dim)
        qk, v = qkv[:, : -self.num_kv], qkv[:, -self.num_kv :]
        first, second = qk.chunk(2, dim=-1)
        rotated = torch.cat((-second, first), dim=-1)
        qk = qk * cos[:, None] + rotated * sin[:, None]
        return qk[:, : self.num_heads], qk[:, self.num_heads :], v

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(F.rms_norm(x, self.norm.shape, self.norm, self.eps), self.head)

    def _finish(self, layer: _Layer, x: Tensor, attended: Tensor) -> Tensor:
        x = x + F.linear(attended, layer.out)
        h = F.rms_norm(x, layer.norm_mlp.shape, layer.norm_mlp, self.eps)
        gate, up = F.linear(h, layer.gate_up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, layer.down)


def _fuse(layer: Any) -> _Layer:
    attn, mlp = layer.self_attn, layer.mlp
    parts = (attn.q_proj, attn.k_proj, attn.v_proj)
    return _Layer(
        norm_in=layer.input_layernorm.weight.detach().clone(),
        qkv_weight=torch.cat([merged_weight(part) for part in parts]),
        qkv_bias=torch.cat([part.bias.detach() for part in parts]),
        out=merged_weight(attn.o_proj).clone(),
        norm_mlp=layer.post_attention_layernorm.weight.detach().clone(),
        gate_up=torch.cat([merged_weight(mlp.gate_proj), merged_weight(mlp.up_proj)]),
        down=merged_weight(mlp.down_proj).clone(),
    )
