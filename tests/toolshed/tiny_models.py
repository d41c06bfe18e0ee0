"""Checkpoints of a few thousand random weights, saved as real ones are: model and processor.

Runs where torchvision is: in the tool environment ``sam2``.
"""

from __future__ import annotations

import itertools
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
    _seeded(lambda: _with_masks(Sam2Model(config)).save_pretrained(folder))
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
    _seeded(lambda: _with_masks(Sam3TrackerModel(config)).save_pretrained(folder))
    images = Sam3ImageProcessor(size={"height": side, "width": side})
    Sam3TrackerProcessor(image_processor=images, target_size=side).save_pretrained(folder)


def _decoder() -> dict[str, object]:
    return {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    }


def _with_masks(model: Any) -> Any:
    """Random weights see nothing; larger ones see patches, where a pixel's upscaling is even."""
    import torch

    with torch.no_grad():
        for name, weight in model.mask_decoder.named_parameters():
            if weight.ndim > 1 and name.startswith(("upscale", "output_hyper", "iou_pred")):
                weight.mul_(12.0)
            if name.startswith("upscale_conv") and weight.ndim > 1:
                weight.copy_(weight[..., :1, :1].expand_as(weight).clone())
    return model


def depth_pro(folder: Path) -> None:
    """Depth Pro on three DINOv2 of twelve narrow layers, so that the released hooks fit."""
    from transformers import DepthProConfig, DepthProForDepthEstimation, DepthProImageProcessor

    encoder = {
        "model_type": "dinov2",
        "hidden_size": 64,
        "num_hidden_layers": 12,
        "num_attention_heads": 1,
        "mlp_ratio": 4,
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


POINTING_TEXT = ['<points coords="1 ', "1 500 250 ", "2 125 750", '">things</points>']
"""What the tiny Molmo 2 writes, one token each, whatever it is asked."""
_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image|>", "<|video|>", "<im_patch>",
    "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>",
    "<im_low>",
)  # fmt: skip
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}: {% for part in message.content %}"
    "{% if part.type == 'image' %}<|image|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def molmo2(folder: Path) -> None:
    """Molmo 2 whose next token follows from the last alone, so that it writes POINTING_TEXT."""
    from transformers import (
        Molmo2Config,
        Molmo2ForConditionalGeneration,
        Molmo2ImageProcessor,
        Molmo2Processor,
        Molmo2VideoProcessor,
    )

    tokens = _tokenizer()
    number = tokens.convert_tokens_to_ids
    config = Molmo2Config(**_molmo2_sizes(tokens))

    def make() -> None:
        model = Molmo2ForConditionalGeneration(config)
        chain = ["<|im_start|>", *POINTING_TEXT, "<|endoftext|>"]
        _write_chain(model, [number(each) for each in chain])
        model.generation_config.eos_token_id = number("<|endoftext|>")
        model.generation_config.pad_token_id = number("<|endoftext|>")
        model.save_pretrained(folder)

    _seeded(make)
    size = {"height": 56, "width": 56}
    images = {"size": size, "max_crops": 2, "overlap_margins": [1, 1]}
    Molmo2Processor(
        image_processor=Molmo2ImageProcessor(**images),
        video_processor=Molmo2VideoProcessor(size=size),
        tokenizer=tokens,
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)


def _molmo2_sizes(tokens: Any) -> dict[str, Any]:
    number, width = tokens.convert_tokens_to_ids, 64
    return {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [56, 56],
            "patch_size": 14,
        },
        "adapter_config": {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "text_hidden_size": width,
            "vision_feature_layer": [1, 0],
        },
        "text_config": {
            "hidden_size": width,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "vocab_size": len(tokens),
            "additional_vocab_size": 0,
        },
        "image_start_token_id": number("<im_start>"),
        "low_res_image_start_token_id": number("<low_res_im_start>"),
        "image_end_token_id": number("<im_end>"),
        "image_patch_id": number("<im_patch>"),
        "frame_start_token_id": number("<frame_start>"),
        "frame_end_token_id": number("<frame_end>"),
    }


def _tokenizer() -> Any:
    """Characters, the special tokens, and the pieces of POINTING_TEXT."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIAL, *POINTING_TEXT, *map(chr, range(32, 127))]
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "#"))
    model.pre_tokenizer = Split("", "isolated")
    model.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL[1:]),
    )


def _write_chain(model: Any, chain: list[int]) -> None:
    """Silence what layers add, so that a token's own embedding decides what follows it."""
    import torch

    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for name, weight in layer.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight", "attn_out.weight")):
                    weight.zero_()
        embedded = model.get_input_embeddings().weight
        embedded.copy_(torch.nn.functional.normalize(torch.randn_like(embedded)))
        model.lm_head.weight.zero_()
        for before, after in itertools.pairwise(chain):
            model.lm_head.weight[after] = 10 * embedded[before]


def _seeded(make: Callable[[], None]) -> None:
    import torch

    torch.manual_seed(0)
    make()


MAKERS = {"sam2": sam2, "sam3": sam3, "depth_pro": depth_pro, "molmo2": molmo2}

if __name__ == "__main__":
    kind, folder = sys.argv[1:]
    MAKERS[kind](Path(folder))
