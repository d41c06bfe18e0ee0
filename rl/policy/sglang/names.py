"""Names of tensors as sglang's loader of Qwen2.5-VL knows them, and the proof that it takes all.

The loader joins projections into one tensor each, and skips a name that it does not know without a
word; so each name is checked against what the engine says that it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
