"""Every weight of the original Depth Pro has one place in transformers' model, and the sizes agree.

The released file itself was never read here; what is held is the network's own list of weights.
"""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.toolshed.original_depth_pro import original_weights
from toolshed.backends.depth_pro_checkpoint import config_of, converted, renamed
from toolshed.errors import ConfigError


def theirs(config: dict[str, object]) -> dict[str, torch.Tensor]:
    """Weights of transformers' model, without memory."""
    from transformers import DepthProConfig
    from transformers.models.depth_pro.modeling_depth_pro import DepthProForDepthEstimation

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, torch.Tensor] = DepthProForDepthEstimation(
            DepthProConfig(**config)
        ).state_dict()
    return state


@pytest.mark.parametrize(
    "sizes", [{}, {"width": 64, "blocks": 12, "grid": 8, "patch": 4, "features": 16}]
)
def test_every_original_weight_has_its_place(sizes: dict[str, int]) -> None:
    ours = {
        key: torch.empty(shape, device="meta") for key, shape in original_weights(**sizes).items()
    }
    found, wanted = converted(ours), theirs(config_of(ours))
    assert {key: each.shape for key, each in found.items()} == {
        key: each.shape for key, each in wanted.items()
    }
    assert sum(each.numel() for each in ours.values()) == sum(e.numel() for e in found.values())
    if not sizes:
        # The size of the released file, 1,904,446,787 bytes, is that of these numbers in 16 bits.
        assert 0 < 1_904_446_787 - 2 * sum(each.numel() for each in ours.values()) < 1_000_000


def test_joint_weights_are_cut_in_query_key_value() -> None:
    joint = torch.arange(6.0)[:, None]
    found = converted({"fov.encoder.0.blocks.3.attn.qkv.weight": joint})
    place = "fov_model.fov_encoder.model.encoder.layer.3.attention"
    assert {key: value[:, 0].tolist() for key, value in found.items()} == {
        f"{place}.q_proj.weight": [0, 1],
        f"{place}.k_proj.weight": [2, 3],
        f"{place}.v_proj.weight": [4, 5],
    }


def test_finest_level_comes_last() -> None:
    assert renamed("decoder.fusions.0.out_conv.bias") == ["fusion_stage.final.projection.bias"]
    assert renamed("decoder.fusions.4.deconv.weight") == [
        "fusion_stage.intermediate.0.deconv.weight"
    ]
    assert renamed("decoder.convs.1.weight") == [
        "depth_pro.neck.feature_projection.projections.3.weight"
    ]


@pytest.mark.parametrize(
    "key", ["model.embed_tokens.weight", "head.0", "encoder.blocks.0.norm1.bias"]
)
def test_a_foreign_weight_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="no weight of Depth Pro"):
        renamed(key)
