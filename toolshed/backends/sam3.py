"""Segmentation by SAM 3: its tracker takes the prompts of SAM 2 and answers in the same form."""

from __future__ import annotations

from typing import ClassVar

from toolshed.backends.sam2 import Sam2


class Sam3(Sam2):
    """Masks of the SAM 3 tracker from points; threshold and erosion as for SAM 2."""

    model_class: ClassVar[str] = "Sam3TrackerModel"
    processor_class: ClassVar[str] = "Sam3TrackerProcessor"

    def __init__(
        self,
        *,
        model_id: str = "facebook/sam3",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        mask_threshold: float = 0.15,
        erosion_px: int = 7,
        kept_encodings: int = 8,
    ) -> None:
        super().__init__(
            model_id=model_id,
            revision=revision,
            device=device,
            dtype=dtype,
            mask_threshold=mask_threshold,
            erosion_px=erosion_px,
            kept_encodings=kept_encodings,
        )
