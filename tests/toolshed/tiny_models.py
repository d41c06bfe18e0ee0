"""Checkpoints of a few thousand random weights, saved as real ones are: model and processor.

Runs where torchvision is: in the tool environment ``sam2``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 128
"""Of the pictures that the tiny vision models see."""


def sam2(folder: Path) -> None:
    """SAM 2 with a four-stage Hiera of width 8."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

    sizes = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [SIDE, SIDE],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [8, 4, 4, 4],
                "global_attention_blocks": [3],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": sizes,
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "mask_input_channels": 4},
        mask_decoder_config=_decoder(),
    )
    _seeded(lambda: Sam2Model(config).save_pretrained(folder))
    images = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    Sam2Processor(image_processor=images).save_pretrained(folder)


def sam3(folder: Path) -> None:
    """The SAM 3 tracker on a two-layer ViT."""
    from transformers import (
        Sam3ImageProcessor,
        Sam3TrackerConfig,
        Sam3TrackerModel,
        Sam3TrackerProcessor,
    )

    side, patch = 112, 14
    grid = side // patch
    config = Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": side,
                "patch_size": patch,
                "window_size": 4,
                "global_attn_indexes": [1],
                "pretrain_image_size": side,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[grid * 4] * 2, [grid * 2] * 2, [grid] * 2],
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": side,
            "patch_size": patch,
            "mask_input_channels": 4,
        },
        mask_decoder_config=_decoder(),
    )
    _seeded(lambda: Sam3TrackerModel(config).save_pretrained(folder))
    images = Sam3ImageProcessor(size={"height": side, "width": side})
    Sam3TrackerProcessor(image_processor=images, target_size=side).save_pretrained(folder)


def _decoder() -> dict[str, object]:
    return {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    }


def depth_pro(folder: Path) -> None:
    """Depth Pro on three DINOv2 of twelve narrow layers, so that the released hooks fit."""
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    encoder = {
        "model_type": "dinov2",
        "hidden_size": 64,
        "num_hidden_layers": 12,
        "num_attention_heads": 1,
        "mlp_ratio": 2,
        "image_size": SIDE // 4,
        "patch_size": 4,
        "use_mask_token": False,
    }
    config = DepthProConfig(
        patch_size=SIDE // 4,
        fusion_hidden_size=16,
        intermediate_feature_dims=[16, 16],
        scaled_images_feature_dims=[64, 64, 32],
        use_fov_model=True,
        image_model_config=dict(encoder),
        patch_model_config=dict(encoder),
        fov_model_config=dict(encoder),
    )
    _seeded(lambda: _with_depth(DepthProForDepthEstimation(config)).save_pretrained(folder))
    DepthProImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def _with_depth(model: Any) -> Any:
    """Random weights see any angle and any depth; here some 60 degrees and a metre or two."""
    import torch

    with torch.no_grad():
        for layer, middle in (
            (model.fov_model.head.layers[-1], 60.0),
            (model.head.layers[-2], 0.7),
        ):
            layer.weight.mul_(0.05)
            layer.bias.fill_(middle)
    return model


def _seeded(make: Callable[[], None]) -> None:
    import torch

    torch.manual_seed(0)
    make()


MAKERS = {"sam2": sam2, "sam3": sam3, "depth_pro": depth_pro}

if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    MAKERS[kind](Path(folder))
