"""Load, freeze and save a Qwen2.5-VL checkpoint; image features and hidden states."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from sft.batch import PrefixGroup
from sft.checkpoint import SCHEMA_FILE
from sft.run_dir import draft_folder
from toolshed.errors import ConfigError

# Its bars for 60 tensors of a tiny model hide the bars that matter.
logging.disable_progress_bar()


def load_model(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> nn.Module:
    """Load any Qwen2.5-VL folder; raises ConfigError where there is none."""
    from transformers import AutoModelForImageTextToText

    if not (Path(folder) / "config.json").exists():
        raise ConfigError(f"{folder} holds no config.json; give a Hugging Face checkpoint folder")
    if device == "cpu":
        # Libraries load DeepSpeed where it is installed; else it would warn that there is no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    model: nn.Module = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa"
    )
    return model.to(device)


def save_checkpoint(
    model: Any,
    source: str | Path,
    folder: str | Path,
    *,
    schema: dict[str, str] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write ``model`` as a Hugging Face folder with the tokenizer and processor of ``source``.

    ``schema`` records the tools that it was trained with; ``weights`` stand for the model's own
    where those are elsewhere. The folder appears whole or not at all.
    """
    with draft_folder(Path(folder)) as draft:
        for path in Path(source).iterdir():
            if (
                path.is_file()
                and path.suffix in (".json", ".jinja", ".txt")
                and "index" not in path.name
            ):
                shutil.copyfile(path, draft / path.name)
        _save_weights(model, draft, weights)
        if schema is not None:
            (draft / SCHEMA_FILE).write_text(json.dumps(schema, indent=1))


def _save_weights(model: Any, folder: Path, weights: dict[str, Tensor] | None) -> None:
    """Weights and config; the OSError that safetensors hides in words comes out."""
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder, state_dict=weights)
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def save_tensors(state: dict[str, Any], path: Path) -> None:
    """``torch.save`` whose OSError comes out: torch's own writer hides why a disk takes no more."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def freeze(model: Any, what: str) -> None:
    """``what``: one of ``sft.config.FREEZE``."""
    visual = model.model.visual
    visual.requires_grad_(what == "none")
    visual.merger.requires_grad_(what != "vision")


def recompute_layers(model: Any) -> None:
    """Keep each layer's input alone for the backward pass, and compute the rest of it again."""
    text = model.model.language_model
    # The newer name first: versions that have it warn of the older one.
    enable = getattr(text, "activation_checkpointing_enable", None)
    (enable or text.gradient_checkpointing_enable)({"use_reentrant": False})
    # transformers recomputes in training mode alone; Qwen2.5-VL has no dropout that it would start.
    assert not text.config.attention_dropout, "recomputation with dropout is not implemented"
    text.train()


def image_features(model: Any, patches: Tensor, grids: Tensor) -> Tensor:
    """Features of pictures, concatenated; shape (image tokens, hidden).

    patches: (sum of t*h*w, patch values); grids: (pictures, 3).
    """
    out = model.model.visual(patches.to(model.dtype), grid_thw=grids)
    features: Tensor = out.pooler_output
    return features


def hidden_states(
    model: Any,
    token_ids_BT: Tensor,
    positions_4BT: Tensor,
    features: Tensor | None,
    groups: tuple[PrefixGroup, ...] = (),
) -> Tensor:
    """Last hidden states of packed rows, shape (B, T, hidden).

    Row 0 of ``positions_4BT`` counts from 0 in every packed sequence: transformers reads the
    borders from it, so sequences in one row do not see each other. ``groups`` says instead what
    the one row consists of, for a model that ``sft.prefix_attention.share_prefixes`` prepared.
    """
    embeds = model.get_input_embeddings()(token_ids_BT)
    if features is not None:
        mask = (token_ids_BT == model.config.image_token_id).unsqueeze(-1)
        assert int(mask.sum()) == len(features), "image tokens and features differ in number"
        embeds = embeds.masked_scatter(mask, features.to(embeds.dtype))
    # With groups no mask is made: the attention itself knows who sees whom.
    attention = (
        {"attention_mask": {"full_attention": None}, "prefix_groups": groups}
        if groups
        else {"attention_mask": None}
    )
    out = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions_4BT, use_cache=False, **attention
    )
    hidden: Tensor = out.last_hidden_state
    return hidden
