"""Segmentation by SAM 2: the mask of the highest predicted IoU among those that points prompt.

As released: mask logits above 0.15 at the picture's size, eroded once by a square of 7 pixels.
Pictures are encoded once for all their prompts, and the last few encodings are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

import numpy as np

from toolshed.backends.checkpoints import (
    Placement,
    memory_errors,
    needed,
    pretrained,
    processor_of,
    transformers_class,
)
from toolshed.backends.erosion import erode_square, segmentation
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.tools.segmentation import SegmentationTool
from toolshed.types import Point, Segmentation, ToolImage

if TYPE_CHECKING:
    import torch

    Encoding: TypeAlias = list[torch.Tensor]
Prompt: TypeAlias = tuple[ToolImage, tuple[Point, ...]]


class Sam2(SegmentationTool):
    """One model, several pictures and prompts at a time."""

    model_class: ClassVar[str] = "Sam2Model"
    processor_class: ClassVar[str] = "Sam2Processor"
    released_id: ClassVar[str] = "facebook/sam2.1-hiera-small"
    environment: ClassVar[str] = "sam2"

    def __init__(
        self,
        *,
        model_id: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        mask_threshold: float = 0.15,
        erosion_px: int = 7,
        kept_encodings: int = 8,
    ) -> None:
        """``model_id`` is ``released_id`` where it is missing; ``erosion_px`` is the side of the
        square, odd; 1 leaves masks as they are."""
        model_id = self.released_id if model_id is None else model_id
        if erosion_px < 1 or erosion_px % 2 == 0:
            raise ConfigError(f"erosion_px = {erosion_px}; write an odd number, 1 for no erosion")
        needed("torchvision", self.environment)
        self._placement = Placement.of(device, dtype, self.environment)
        processor_class = transformers_class(self.processor_class, self.environment)
        self._processor = processor_of(
            processor_class, model_id, self._placement, revision=revision
        )
        model_class = transformers_class(self.model_class, self.environment)
        self._model = pretrained(model_class, model_id, self._placement, revision=revision)
        self._threshold, self._erosion_px = mask_threshold, erosion_px
        self._num_kept = kept_encodings
        self._encodings: OrderedDict[str, Encoding] = OrderedDict()

    def segment_from_point(self, image: ToolImage, x: float, y: float) -> Segmentation:
        return self.segment_from_points(image, [Point(u=x, v=y)])

    def segment_from_points(self, image: ToolImage, points: list[Point]) -> Segmentation:
        found = self._segment([(image, _checked(points))])[0]
        if isinstance(found, ToolRefusal):
            raise found
        return found

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """Everything goes together: pictures are resized and prompts padded to one shape."""
        return "all"

    def batch(
        self, method: str, calls: Sequence[Mapping[str, object]]
    ) -> Sequence[Segmentation | ToolRefusal]:
        read = [_prompt(method, arguments) for arguments in calls]
        prompts = [each for each in read if not isinstance(each, ToolRefusal)]
        done = iter(self._segment(prompts) if prompts else [])
        return [each if isinstance(each, ToolRefusal) else next(done) for each in read]

    def _segment(self, prompts: Sequence[Prompt]) -> list[Segmentation | ToolRefusal]:
        import torch

        with torch.inference_mode(), memory_errors():
            encodings = self._encoded([image for image, _ in prompts])
            inputs = self._prompt_inputs(prompts)
            answered = self._model(
                image_embeddings=[torch.cat(level) for level in zip(*encodings, strict=True)],
                input_points=inputs["input_points"].to(self._placement.device),
                input_labels=inputs["input_labels"].to(self._placement.device),
                multimask_output=True,
            )
            scores, logits = answered.iou_scores[:, 0].float(), answered.pred_masks[:, 0].float()
            best = scores.argmax(dim=-1)
            return [
                self._finished(prompt, logits[row, index], float(scores[row, index]))
                for row, (prompt, index) in enumerate(zip(prompts, best.tolist(), strict=True))
            ]

    def _prompt_inputs(self, prompts: Sequence[Prompt]) -> Any:
        """Pixel positions as the model wants them; shorter lists are padded by the processor."""
        return self._processor(
            original_sizes=[[image.height, image.width] for image, _ in prompts],
            input_points=[
                [[_pixel(point, image) for point in points]] for image, points in prompts
            ],
            input_labels=[[[1] * len(points)] for _, points in prompts],
            return_tensors="pt",
        )

    def _encoded(self, images: Sequence[ToolImage]) -> list[Encoding]:
        """Feature maps of each picture, (1, C, h, w) per level; unknown ones encoded together."""
        new = {each.sha256: each for each in images if each.sha256 not in self._encodings}
        if new:
            # What came from another process is read-only, and torch wants to own its arrays.
            pictures = [each.pixels.copy() for each in new.values()]
            inputs = self._processor.image_processor(pictures, return_tensors="pt")
            pixels = inputs["pixel_values"].to(self._placement.device, self._model.dtype)
            levels = self._model.get_image_embeddings(pixels)
            for row, key in enumerate(new):
                self._encodings[key] = [level[row : row + 1].clone() for level in levels]
        for each in images:
            self._encodings.move_to_end(each.sha256)
        found = [self._encodings[each.sha256] for each in images]
        while len(self._encodings) > self._num_kept:
            self._encodings.popitem(last=False)
        return found

    def _finished(
        self, prompt: Prompt, logits: torch.Tensor, score: float
    ) -> Segmentation | ToolRefusal:
        image, points = prompt
        masks = self._processor.post_process_masks(
            [logits[None, None]],
            [[image.height, image.width]],
            mask_threshold=self._threshold,
        )
        whole = np.asarray(masks[0][0, 0].cpu().numpy(), dtype=np.bool_)
        if not whole.any():
            return ToolRefusal("empty_mask", "the model sees no object at these points")
        return segmentation(whole, erode_square(whole, self._erosion_px), score, points)


def _prompt(method: str, arguments: Mapping[str, object]) -> Prompt | ToolRefusal:
    image = cast(ToolImage, arguments["image"])
    if method == "segment_from_point":
        x, y = cast(float, arguments["x"]), cast(float, arguments["y"])
        points = [Point(u=x, v=y)]
    else:
        points = cast("list[Point]", arguments["points"])
    try:
        return image, _checked(points)
    except ToolRefusal as refusal:
        return refusal


def _checked(points: Sequence[Point]) -> tuple[Point, ...]:
    if not points:
        raise ToolRefusal("no_points", "segmentation needs at least one point")
    for point in points:
        for name, value in (("x", point.u), ("y", point.v)):
            if not 0.0 <= value <= 1.0:
                raise ToolRefusal("out_of_range", f"{name} = {value} is outside [0, 1]")
    return tuple(points)


def _pixel(point: Point, image: ToolImage) -> list[float]:
    """The pixel that a normalised point lies in, as the release counted: fractions cut off."""
    column = min(int(point.u * image.width), image.width - 1)
    return [float(column), float(min(int(point.v * image.height), image.height - 1))]
