"""Low-rank adapters through PEFT: trained in place of the weights, saved alone, or merged."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft.config import LoraConfig
from sft.run_dir import draft_folder
from toolshed.errors import ConfigError

_PLACES = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_ADAPTER = "default"


def add_adapters(model: Any, config: LoraConfig) -> Any:
    """Freeze every weight of ``model`` and put adapters on the matrices of its language layers.

    Works in place; the returned PEFT model writes the adapters. An adapter begins as zero, so the
    model says what it said before (2106.09685, section 4.1).
    """
    if find_spec("peft") is None:
        raise ConfigError(
            "learner.lora.rank= needs PEFT; install the extra: pip install -e '.[train]'"
        )
    import peft

    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=_PLACES)
    with warnings.catch_warnings():
        # PEFT asks transformers for a name that is to be renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, settings, adapter_name=_ADAPTER)


def save_adapters(adapted: Any, folder: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Write the adapters alone, as ``peft.PeftModel.from_pretrained`` reads them.

    weights: those of the adapters by name, as ``Learner`` gathers them.
    """
    with draft_folder(Path(folder)) as draft:
        adapted.save_pretrained(
            draft, state_dict={f"base_model.model.{name}": w for name, w in weights.items()}
        )


def merged_weights(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """W + alpha / rank * B A under the names that the model had without adapters, float32 sums."""
    merged: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        if not name.endswith(".base_layer.weight"):
            merged[name.replace(".base_layer.", ".")] = weight
            continue
        place = name.removesuffix(".base_layer.weight")
        down, up = (weights[f"{place}.lora_{side}.{_ADAPTER}.weight"] for side in "AB")
        merged[f"{place}.weight"] = _merged(weight, down, up, config.alpha / config.rank)
    return merged


def merged_weight(layer: Any) -> Tensor:
    """The weight of a linear layer with what its adapter, if any, adds to it; detached."""
    if not hasattr(layer, "lora_A"):
        weight: Tensor = layer.weight.detach()
        return weight
    down, up = (getattr(layer, f"lora_{side}")[_ADAPTER].weight.detach() for side in "AB")
    return _merged(layer.base_layer.weight.detach(), down, up, layer.scaling[_ADAPTER])


def _merged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)


def plain_weights(model: torch.nn.Module, *, trained: bool = False) -> dict[str, Tensor]:
    """Every weight, or every ``trained`` one, by its name, tied ones once."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or not trained
    }
