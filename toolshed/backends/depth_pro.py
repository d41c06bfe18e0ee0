"""Metric depth by Depth Pro, from one picture alone; the focal length is the model's own estimate.

The cloud is as released: every pixel through its integer position, row by row, kept where
0 < z < 100 m. It is float32, where the release had float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from toolshed.backends.checkpoints import (
    Placement,
    memory_errors,
    needed,
    pretrained,
    processor_of,
    transformers_class,
)
from toolshed.errors import ConfigError
from toolshed.tools.depth import Depth
from toolshed.types import DepthEstimate, ToolImage

FAR_M = 100.0
WITH_CLOUD = "estimate_depth_with_pointcloud"


class DepthPro(Depth):
    """One model, several pictures at a time."""

    environment: ClassVar[str] = "depth"

    def __init__(
        self,
        *,
        model_id: str = "apple/DepthPro-hf",
        checkpoint_path: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        """``checkpoint_path`` is a ``depth_pro.pt`` of the original release; it goes before
        ``model_id``, which is a checkpoint in the form of transformers."""
        needed("torchvision", self.environment)
        self._placement = Placement.of(device, dtype, self.environment)
        if checkpoint_path is not None:
            from toolshed.backends.depth_pro_checkpoint import load_original

            self._model, self._processor = load_original(checkpoint_path, self._placement)
        else:
            model_class = transformers_class("DepthProForDepthEstimation", self.environment)
            self._model = pretrained(model_class, model_id, self._placement, revision=revision)
            processor_class = transformers_class("DepthProImageProcessor", self.environment)
            self._processor = processor_of(
                processor_class, model_id, self._placement, revision=revision
            )
        if not self._model.use_fov_model:
            raise ConfigError(
                f"{checkpoint_path or model_id} has no field-of-view model, so it knows no focal "
                "length; give a checkpoint with 'use_fov_model: true'"
            )

    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        return self._estimate([image], cloud=False)[0]

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        return self._estimate([image], cloud=True)[0]

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """Pictures of any size go together: the model sees them all in its own size."""
        return "all"

    def batch(self, method: str, calls: Sequence[Mapping[str, object]]) -> Sequence[DepthEstimate]:
        images = [cast(ToolImage, arguments["image"]) for arguments in calls]
        return self._estimate(images, cloud=method == WITH_CLOUD)

    def _estimate(self, images: Sequence[ToolImage], *, cloud: bool) -> list[DepthEstimate]:
        import torch

        with torch.inference_mode(), memory_errors():
            # What came from another process is read-only, and torch wants to own its arrays.
            pictures = [each.pixels.copy() for each in images]
            inputs = self._processor(pictures, return_tensors="pt")
            pixels = inputs["pixel_values"].to(self._placement.device, self._model.dtype)
            answered = self._model(pixel_values=pixels)
            # A depth in 16 bits would be rounded to millimetres at best.
            answered.predicted_depth = answered.predicted_depth.float()
            answered.field_of_view = answered.field_of_view.float()
            sizes = [(each.height, each.width) for each in images]
            done = self._processor.post_process_depth_estimation(answered, target_sizes=sizes)
        return [_finished(each, size, cloud=cloud) for each, size in zip(done, sizes, strict=True)]


def _finished(done: Mapping[str, Any], size: tuple[int, int], *, cloud: bool) -> DepthEstimate:
    depth_m = done["predicted_depth"].reshape(size).cpu().numpy().astype(np.float32)
    focal_length_px = float(done["focal_length"])
    points = corner_cloud(depth_m, focal_length_px) if cloud else None
    return DepthEstimate(depth_m=depth_m, focal_length_px=focal_length_px, points=points)


def corner_cloud(
    depth_m: npt.NDArray[np.float32], focal_length_px: float
) -> npt.NDArray[np.float32]:
    """Camera-frame cloud (N, 3), metres, row-major, of the pixels with 0 < z < 100 m.

    Each pixel stands for its integer position, the upper left corner, as in the release; the light
    depth takes its middle. What finds pixels again by rounding down agrees with both.
    """
    height, width = depth_m.shape
    x = (np.arange(width) - width / 2) / focal_length_px
    y = (np.arange(height) - height / 2) / focal_length_px
    depth = depth_m.astype(np.float64)
    points = np.stack([depth * x, depth * y[:, None], depth], axis=-1)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(points).all(axis=-1) & (depth > 0) & (depth < FAR_M)
    return np.ascontiguousarray(points[known], dtype=np.float32)
