"""Reading one value out of an array that another tool returned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolshed.errors import ToolRefusal
from toolshed.tools.vision_ops import VisionOps
from toolshed.types import IndexedValue


class LightVisionOps(VisionOps):
    def index_at(self, data: npt.NDArray[np.generic], u: float, v: float) -> IndexedValue:
        """Value at normalised (u, v); the far border counts as the last pixel.

        A depth map with a hole at the place gives its nearest known depth.
        """
        if data.ndim not in (2, 3) or 0 in data.shape:
            raise ToolRefusal(
                "bad_data",
                f"data has shape {data.shape}; a map of shape (H, W) or (H, W, C) is needed",
            )
        for name, value in (("u", u), ("v", v)):
            if not 0.0 <= value <= 1.0:
                raise ToolRefusal("out_of_range", f"{name} = {value} is outside [0, 1]")
        height, width = data.shape[:2]
        row, column = min(int(v * height), height - 1), min(int(u * width), width - 1)
        return IndexedValue(u=u, v=v, value=_read(data, row, column), kind="")


def _read(data: npt.NDArray[np.generic], row: int, column: int) -> float | bool | tuple[float, ...]:
    found = data[row, column]
    if data.ndim == 3:
        values: list[float] = np.asarray(found).tolist()
        return tuple(values)
    if data.dtype == np.bool_:
        return bool(found)
    value = float(np.asarray(found, dtype=np.float64))
    if np.issubdtype(data.dtype, np.floating) and not (np.isfinite(value) and value > 0):
        return _nearest_known(np.asarray(data, dtype=np.float64), row, column)
    return value


def _nearest_known(data: npt.NDArray[np.float64], row: int, column: int) -> float:
    rows, columns = np.nonzero(np.isfinite(data) & (data > 0))
    if len(rows) == 0:
        raise ToolRefusal("no_value", "the map holds no valid value anywhere")
    nearest = int(((rows - row) ** 2 + (columns - column) ** 2).argmin())
    return float(data[rows[nearest], columns[nearest]])
