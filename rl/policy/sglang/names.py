"""Names of tensors as sglang's loader of Qwen2.5-VL knows them, and the proof that it takes all.

The loader joins projections into one tensor each, and skips a name that it does not know without a
word; so each name is checked against what the engine says that it holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from toolshed.errors import ConfigError

_PREFIXES = {"model.language_model.": "model.", "model.visual.": "visual.", "lm_head.": "lm_head."}
"""Of live names in transformers 5, and of the loader."""
_JOINED = {
    ".q_proj.": (".qkv_proj.", 0),
    ".k_proj.": (".qkv_proj.", 1),
    ".v_proj.": (".qkv_proj.", 2),
    ".gate_proj.": (".gate_up_proj.", 0),
    ".up_proj.": (".gate_up_proj.", 1),
    ".attn.qkv.": (".attn.qkv_proj.", 0),
}
"""Part of a loader's name -> that of the tensor in the engine, and the place in it."""
_PADDED = ("model.embed_tokens.weight", "lm_head.weight")
_VOCABULARY_STEP = 64
"""Engines fill these tensors up with rows of zeros."""
_NUM_PARTS = {".qkv_proj.": 3, ".gate_up_proj.": 2}


def loader_name(name: str) -> str:
    """The loader's name of a parameter of a live model; ConfigError where it has none."""
    for ours, theirs in _PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ConfigError(
        f"parameter {name} is none of a Qwen2.5-VL, so engines cannot be given it; merge adapters "
        "before weights are sent"
    )


def for_loader(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a live model under the loader's names; ConfigError where one has none."""
    return {loader_name(name): tensor for name, tensor in tensors.items()}


def engine_name(name: str) -> tuple[str, int]:
    """The tensor of the engine that a loader's name goes to, and its place in it."""
    for part, (joined, place) in _JOINED.items():
        if part in name:
            return name.replace(part, joined), place
    return name, 0


def check_complete(names: Iterable[str], held: Iterable[str]) -> None:
    """ConfigError where the engine, which holds tensors of these names, would skip one."""
    known = set(held)
    skipped = [name for name in names if engine_name(name)[0] not in known]
    if skipped:
        raise ConfigError(
            f"the engine would skip {len(skipped)} tensors without a word, {skipped[0]} first; "
            "it serves another model, or this sglang names its tensors otherwise"
        )


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
