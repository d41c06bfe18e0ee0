"""Whether a real engine on a CPU holds exactly given tensors, by the hashes that it tells."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rl.policy.sglang.names import engine_name
from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.weights import held_tensors

_PADDED = ("model.embed_tokens.weight", "lm_head.weight")
_VOCABULARY_STEP = 64
"""Engines fill these tensors up with rows of zeros."""
_NUM_PARTS = {".qkv_proj.": 3, ".gate_up_proj.": 2}


async def check_held(policy: SglangPolicy, tensors: Mapping[str, Tensor]) -> int:
    """How many tensors of the engines were found equal to these, by loader's name.

    AssertionError where one is not. On a CPU alone: engines hash otherwise on a GPU.
    """
    expected = checksums(tensors, getattr(torch, policy.config.dtype))
    for server in policy.fleet.usable:
        held = await held_tensors(server)
        wrong = [name for name, told in expected.items() if held.get(name) != told]
        assert not wrong, f"{server} holds {len(wrong)} tensors of other values, {wrong[0]} first"
    return len(expected)


def checksums(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, str]:
    """What ``/weights_checker`` says of these tensors on one CPU rank, by the engine's names.

    A joined tensor is there only if all of its parts are. The hash is the first 8 bytes of the
    SHA-256 of the values as the engine keeps them.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        target, place = engine_name(name)
        parts.setdefault(target, {})[place] = tensor
    return {
        target: _hash(target, [found[place] for place in sorted(found)], dtype)
        for target, found in parts.items()
        if len(found) == _num_parts(target, found)
    }


def _num_parts(target: str, found: Mapping[int, Tensor]) -> int:
    match = re.search(r"\.(qkv_proj|gate_up_proj)\.", target)
    # The tower's qkv is one tensor on both sides.
    if match is None or ".attn.qkv_proj." in target:
        return 1
    return _NUM_PARTS[match[0]]


def _hash(target: str, parts: list[Tensor], dtype: torch.dtype) -> str:
    whole = torch.cat([part.to("cpu", dtype) for part in parts])
    if target in _PADDED:
        whole = F.pad(whole, (0, 0, 0, -len(whole) % _VOCABULARY_STEP))
    data = whole.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).digest()[:8].hex()
