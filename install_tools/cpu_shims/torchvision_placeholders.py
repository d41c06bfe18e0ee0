"""Names for torchvision's compiled operators where its CUDA wheel meets a CPU torch: none can run.

torchvision has no CPU wheel on PyPI, and its Python part does not import while these names are
missing from torch. ``env create --cpu`` copies this file into such an environment, beside a
``.pth`` that calls ``watch``; the operators are then declared just before torchvision is imported.
Calling one raises; image processors call none of them.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

_ROI = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_ROI_BACK = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SIZES = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask"
)
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = {
    "nms": _NMS,
    "qnms": _NMS,
    "roi_align": f"({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool": f"({_ROI}) -> (Tensor, Tensor)",
    "ps_roi_align": f"({_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    "ps_roi_pool": f"({_ROI}) -> (Tensor, Tensor)",
    "deform_conv2d": f"(Tensor input, {_DEFORM}) -> Tensor",
    "_roi_align_backward": (
        f"(Tensor grad, Tensor rois, {_ROI_BACK}, {_SIZES}, int sampling_ratio, bool aligned)"
        " -> Tensor"
    ),
    "_roi_pool_backward": (
        f"(Tensor grad, Tensor rois, Tensor argmax, {_ROI_BACK}, {_SIZES}) -> Tensor"
    ),
    "_ps_roi_align_backward": (
        f"(Tensor grad, Tensor rois, Tensor channel_mapping, {_ROI_BACK}, int sampling_ratio, "
        f"{_SIZES}) -> Tensor"
    ),
    "_ps_roi_pool_backward": (
        f"(Tensor grad, Tensor rois, Tensor channel_mapping, {_ROI_BACK}, {_SIZES}) -> Tensor"
    ),
    "_deform_conv2d_backward": (
        f"(Tensor grad, Tensor input, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
}
"""Every operator that is a placeholder, with the signature that torchvision gives it."""


class _Watch(MetaPathFinder):
    """Declares the operators at the first import of torchvision; finds nothing itself."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare()


def watch() -> None:
    """Wait for torchvision: torch is not imported by every program of an environment."""
    # A venv's lib64 is its lib, so the .pth that calls this is read twice.
    if not any(isinstance(each, _Watch) for each in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def declare() -> None:
    """Give torch the names, unless it is built for CUDA, where the real operators load."""
    import torch

    if torch.version.cuda is not None or _LIBRARIES:
        return
    _LIBRARIES.append(library := torch.library.Library("torchvision", "DEF"))
    for name, signature in OPERATORS.items():
        library.define(name + signature)


_LIBRARIES: list[Any] = []
"""torch forgets what a library declared when the library is collected."""
