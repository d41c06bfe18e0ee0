"""Reading ``depth_pro.pt``, the checkpoint of the original Depth Pro, into transformers' model.

The names follow the modules of the original network; sizes are read from the weights. Every weight
must find its place and every place its weight, or the file is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolshed.backends.checkpoints import Placement, found, memory_errors, transformers_class
from toolshed.errors import ConfigError, first_line

HOOKS = (11, 5)
"""Blocks of the patch encoder whose outputs are used as well, deeper one first."""
HEAD_WIDTH = 64
"""Of the attention heads of every DINOv2."""
_ENCODERS = {
    "encoder.patch_encoder": "depth_pro.encoder.patch_encoder.model",
    "encoder.image_encoder": "depth_pro.encoder.image_encoder.model",
    "fov.encoder.0": "fov_model.fov_encoder.model",
}
_IN_ENCODER = (
    (r"cls_token", "embeddings.cls_token"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.norm(\d)\.(\w+)", r"encoder.layer.\1.norm\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(\w+)", r"encoder.layer.\1.attention.{part}.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"encoder.layer.\1.attention.o_proj.\2"),
    (r"blocks\.(\d+)\.ls(\d)\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.mlp\.fc(\d)\.(\w+)", r"encoder.layer.\1.mlp.fc\2.\3"),
    (r"norm\.(\w+)", r"layernorm.\1"),
)
_ELSEWHERE = (
    (r"fov\.encoder\.1\.(\w+)", r"fov_model.fov_encoder.neck.\1"),
    (r"fov\.downsample\.0\.(\w+)", r"fov_model.conv.\1"),
    (r"fov\.head\.(\d)\.(\w+)", r"fov_model.head.layers.\1.\2"),
    (r"head\.(\d)\.(\w+)", r"head.layers.\1.\2"),
    (r"encoder\.fuse_lowres\.(\w+)", r"depth_pro.neck.fuse_image_with_low_res.\1"),
    (r"encoder\.upsample_lowres\.(\w+)", r"{up}.image_block.layers.0.\1"),
    # The original counts from fine to coarse, transformers from coarse to fine.
    (r"encoder\.upsample_latent0\.(\d)\.(\w+)", r"{up}.intermediate.1.layers.\1.\2"),
    (r"encoder\.upsample_latent1\.(\d)\.(\w+)", r"{up}.intermediate.0.layers.\1.\2"),
    (r"encoder\.upsample0\.(\d)\.(\w+)", r"{up}.scaled_images.2.layers.\1.\2"),
    (r"encoder\.upsample1\.(\d)\.(\w+)", r"{up}.scaled_images.1.layers.\1.\2"),
    (r"encoder\.upsample2\.(\d)\.(\w+)", r"{up}.scaled_images.0.layers.\1.\2"),
    (r"decoder\.convs\.([1-4])\.(\w+)", r"depth_pro.neck.feature_projection.projections.{4-}.\2"),
    (r"decoder\.fusions\.([0-4])\.out_conv\.(\w+)", r"{fusion}.projection.\2"),
    (r"decoder\.fusions\.([0-4])\.deconv\.(\w+)", r"{fusion}.deconv.\2"),
    (
        r"decoder\.fusions\.([0-4])\.resnet(\d)\.residual\.1\.(\w+)",
        r"{fusion}.residual_layer\2.convolution1.\3",
    ),
    (
        r"decoder\.fusions\.([0-4])\.resnet(\d)\.residual\.3\.(\w+)",
        r"{fusion}.residual_layer\2.convolution2.\3",
    ),
)
_PARTS = ("q_proj", "k_proj", "v_proj")


def renamed(key: str) -> list[str]:
    """Where a weight of the original belongs: one name, or three for a joint ``qkv``.

    ConfigError for a name that the original network does not have.
    """
    for ours, theirs in _ENCODERS.items():
        if key.startswith(f"{ours}."):
            name = _matched(key.removeprefix(f"{ours}."), _IN_ENCODER)
            if name is not None:
                parts = _PARTS if "{part}" in name else ("",)
                return [f"{theirs}.{name.replace('{part}', part)}" for part in parts]
    name = _matched(key, _ELSEWHERE)
    if name is None:
        raise ConfigError(f"{key!r} is no weight of Depth Pro; give the original depth_pro.pt")
    return [name]


def _matched(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, key)
        if match is None:
            continue
        level = int(match[1]) if "{4-}" in replacement or "{fusion}" in replacement else 0
        fusion = f"intermediate.{4 - level}" if level else "final"
        return (
            match.expand(replacement)
            .replace("{up}", "depth_pro.neck.feature_upsample")
            .replace("{4-}", str(4 - level))
            .replace("{fusion}", f"fusion_stage.{fusion}")
        )
    return None


def converted(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of the original under transformers' names; joint ones cut in three."""
    theirs: dict[str, Any] = {}
    for key, weight in weights.items():
        names = renamed(key)
        theirs.update(zip(names, weight.chunk(len(names)), strict=True))
    return theirs


def config_of(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of transformers' ``DepthProConfig`` that fit the sizes of the weights."""
    shape = {key: tuple(weight.shape) for key, weight in weights.items()}
    patches = _encoder(shape, "encoder.patch_encoder")
    ups = "encoder.upsample"
    return {
        "patch_size": patches["image_size"],
        "fusion_hidden_size": shape["decoder.fusions.0.out_conv.weight"][0],
        "intermediate_hook_ids": list(HOOKS),
        "intermediate_feature_dims": [
            shape[f"{ups}_latent1.0.weight"][0],
            shape[f"{ups}_latent0.0.weight"][0],
        ],
        "scaled_images_feature_dims": [shape[f"{ups}{level}.0.weight"][0] for level in (2, 1, 0)],
        "use_fov_model": True,
        "image_model_config": _encoder(shape, "encoder.image_encoder"),
        "patch_model_config": patches,
        "fov_model_config": _encoder(shape, "fov.encoder.0"),
    }


def _encoder(shape: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    """Arguments of ``Dinov2Config`` for one encoder of the original."""
    width = shape[f"{prefix}.cls_token"][-1]
    patch = shape[f"{prefix}.patch_embed.proj.weight"][-1]
    first = f"{prefix}.blocks."
    blocks = {key.removeprefix(first).split(".")[0] for key in shape if key.startswith(first)}
    side = round((shape[f"{prefix}.pos_embed"][1] - 1) ** 0.5)
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "mlp_ratio": shape[f"{prefix}.blocks.0.mlp.fc1.weight"][0] // width,
        "image_size": side * patch,
        "patch_size": patch,
        "use_mask_token": False,
    }


def load_original(path: str, placement: Placement) -> tuple[Any, Any]:
    """Model and image processor from a ``depth_pro.pt``; ConfigError where it is none."""
    import torch

    if not Path(path).is_file():
        raise ConfigError(f"checkpoint_path = {path!r} is no file; give the path of depth_pro.pt")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"checkpoint_path = {path!r} is no file of weights alone") from error
    try:
        config = transformers_class("DepthProConfig", "depth")(**config_of(weights))
        model = transformers_class("DepthProForDepthEstimation", "depth")(config)
        model.load_state_dict(converted(weights), strict=True)
    except (KeyError, RuntimeError, AttributeError) as error:
        first = first_line(error)[:300]
        raise ConfigError(
            f"checkpoint_path = {path!r} is no checkpoint of Depth Pro: {first}"
        ) from error
    side = 4 * config.patch_size
    processor_class = transformers_class("DepthProImageProcessor", "depth")
    with found(path, placement.environment):
        processor = processor_class(size={"height": side, "width": side})
    with memory_errors():
        return model.to(placement.device, placement.dtype or model.dtype).eval(), processor
