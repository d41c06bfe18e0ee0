"""Segmentation by SAM 3: its tracker takes the prompts of SAM 2 and answers in the same form."""

from __future__ import annotations

from typing import ClassVar

from toolshed.backends.sam2 import Sam2


class Sam3(Sam2):
    """Masks of the SAM 3 tracker from points; threshold and erosion as for SAM 2."""

    model_class: ClassVar[str] = "Sam3TrackerModel"
    processor_class: ClassVar[str] = "Sam3TrackerProcessor"
    released_id: ClassVar[str] = "facebook/sam3"
