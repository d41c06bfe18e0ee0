"""Grasps by a GraspGen server: its own protocol, msgpack over a ZeroMQ request socket.

Arrays travel as msgpack-numpy writes them; only plain numbers are read back, never pickles.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from toolshed.backends.checkpoints import needed
from toolshed.backends.grasp_filters import FilteredGrasping, Sampled
from toolshed.backends.graspgen import DOWN
from toolshed.errors import ConfigError, ToolFailure


class GraspGenServer(FilteredGrasping):
    """GraspGen behind its socket. The server draws its own random numbers, so equal calls may have
    different answers: write ``cache: false``."""

    environment: ClassVar[str] = "graspgen"

    def __init__(
        self,
        *,
        address: str = "tcp://127.0.0.1:5556",
        timeout_s: float = 60.0,
        start_timeout_s: float = 10.0,
        num_grasps: int = 200,
        top_grasps: int = 100,
        approach_direction: list[float] | None = None,
        min_approach_cosine: float = 0.5,
        clearance_m: float = 0.01,
        num_scene_points: int = 8192,
        seed: int = 0,
    ) -> None:
        """ConfigError where nothing answers at ``address`` within ``start_timeout_s``."""
        super().__init__(
            num_grasps=num_grasps,
            top_grasps=top_grasps,
            approach_direction=list(DOWN if approach_direction is None else approach_direction),
            min_approach_cosine=min_approach_cosine,
            clearance_m=clearance_m,
            num_scene_points=num_scene_points,
            seed=seed,
        )
        if not address.startswith(("tcp://", "ipc://")):
            raise ConfigError(f"address = {address!r}; write tcp://HOST:PORT or ipc://PATH")
        self._zmq = needed("zmq", self.environment)
        self._msgpack = needed("msgpack", self.environment)
        self._address, self._timeout_s = address, timeout_s
        try:
            self._ask({"action": "health"}, start_timeout_s)
        except ToolFailure as error:
            raise ConfigError(
                f"address = {address!r}: no GraspGen server answers there ({error.text}); start "
                "it, or correct the address"
            ) from error

    def sampled(self, points_m: npt.NDArray[np.float32]) -> Sampled:
        request = {
            "action": "infer",
            "point_cloud": np.ascontiguousarray(points_m),
            "grasp_threshold": -1.0,
            "num_grasps": self.num_grasps,
            "topk_num_grasps": self.top_grasps,
        }
        reply = self._ask(request, self._timeout_s)
        try:
            poses = np.asarray(reply["grasps"], dtype=np.float64).reshape(-1, 4, 4)
            confidences = np.asarray(reply["confidences"], dtype=np.float64).reshape(-1)
        except (KeyError, TypeError, ValueError) as error:
            raise ToolFailure("bad_response", f"{self._address}: {error}") from error
        if len(poses) != len(confidences):
            raise ToolFailure(
                "bad_response", f"{len(poses)} grasps have {len(confidences)} confidences"
            )
        return poses, confidences

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One question on a socket of its own: after a silence a request socket is unusable."""
        socket = self._zmq.Context.instance().socket(self._zmq.REQ)
        try:
            socket.setsockopt(self._zmq.LINGER, 0)
            socket.connect(self._address)
            socket.send(self._msgpack.packb(request, default=packed_array))
            if not socket.poll(int(timeout_s * 1000)):
                raise ToolFailure("timeout", f"{self._address} took longer than {timeout_s:g} s")
            reply = self._msgpack.unpackb(
                socket.recv(), object_hook=unpacked_array, strict_map_key=False
            )
        except (self._zmq.ZMQError, self._msgpack.UnpackException, ValueError, TypeError) as error:
            raise ToolFailure("bad_response", f"{self._address}: {error}") from error
        finally:
            socket.close()
        if not isinstance(reply, dict) or "error" in reply:
            told = reply.get("error") if isinstance(reply, dict) else reply
            raise ToolFailure("bad_response", f"{self._address}: {str(told)[:200]}")
        return reply


def packed_array(value: object) -> dict[bytes, object]:
    """An array as msgpack-numpy writes it."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be sent")
    return {
        b"nd": True,
        b"type": value.dtype.str,
        b"kind": b"",
        b"shape": list(value.shape),
        b"data": value.tobytes(),
    }


def unpacked_array(value: dict[Any, Any]) -> object:
    """What msgpack-numpy wrote: arrays and scalars of numbers; everything else stays as it is."""
    fields = {key.decode() if isinstance(key, bytes) else key: each for key, each in value.items()}
    if "nd" not in fields:
        return value
    spelled = fields["type"]
    dtype = np.dtype(spelled.decode() if isinstance(spelled, bytes) else str(spelled))
    if dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype} is not read")
    array = np.frombuffer(fields["data"], dtype=dtype)
    return array.reshape(fields["shape"]) if fields["nd"] else array[0]
