"""Small servers that speak the contracts of the real ones: HTTP, and GraspGen's socket."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from toolshed.backends.light_pointing import LightPointing
from toolshed.backends.light_robot import LightRobot
from toolshed.errors import ToolRefusal
from toolshed.images import make_image
from toolshed.tabletop.state import WorldState, initial_state
from toolshed.types import CapturedImage, DepthEstimate, Point, RobotAction

Reply: TypeAlias = "tuple[int, bytes]"
Route: TypeAlias = Callable[[bytes], Reply]


@contextmanager
def serving(routes: Mapping[str, Route]) -> Iterator[str]:
    """The address of a server on this machine; a route is ``GET /path`` or ``POST /path``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply("GET")

        def do_POST(self) -> None:
            self._reply("POST")

        def _reply(self, verb: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            route = routes.get(f"{verb} {self.path}")
            status, content = (404, b"no such page") if route is None else route(body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", content.decode())
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pointing_routes(asked: list[dict[str, object]]) -> dict[str, Route]:
    """RoboRefer's API over the light pointing; ``asked`` collects what was sent."""

    def query(body: bytes) -> Reply:
        sent = json.loads(body)
        asked.append(sent)
        file = io.BytesIO(base64.b64decode(sent["image_url"][0], validate=True))
        image = make_image(np.asarray(Image.open(file).convert("RGB"), dtype=np.uint8))
        name = sent["text"].partition(".")[0].removeprefix("Point to ").strip()
        name = name.removeprefix("all ").removeprefix("the ")
        try:
            points = LightPointing().detect_all(image, name).points
        except ToolRefusal:
            points = ()
        answer = f"[{', '.join(f'({each.u:.4f}, {each.v:.4f})' for each in points)}]"
        return 200, json.dumps({"result": 1, "answer": answer}).encode()

    return {"GET /": lambda body: (200, b"hello"), "POST /query": query}


def npz(**arrays: npt.ArrayLike) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(each) for name, each in arrays.items()})  # type: ignore[arg-type]
    return file.getvalue()


class RobotService:
    """The robot's HTTP contract over the embedded world."""

    def __init__(self, seed: int) -> None:
        self.world: WorldState = initial_state(seed)
        self.actions: list[str] = []
        self._robot = LightRobot()

    def routes(self) -> dict[str, Route]:
        return {
            "GET /capture_image": self._capture,
            "GET /get_depth": self._depth,
            "POST /execute_grasp": self._grasp,
            "POST /place_object_at_2d_location": self._place_2d,
            "POST /place_object_at_3d_location": self._place_3d,
        }

    def _capture(self, body: bytes) -> Reply:
        value = self._robot.capture_image(self.world).value
        assert isinstance(value, CapturedImage)
        file = io.BytesIO()
        Image.fromarray(value.image.pixels).save(file, "PNG")
        return 200, file.getvalue()

    def _depth(self, body: bytes) -> Reply:
        value = self._robot.get_depth(self.world).value
        assert isinstance(value, DepthEstimate)
        height, width = value.depth_m.shape
        return 200, npz(
            depth_map=value.depth_m,
            focal_length_px=value.focal_length_px,
            width=width,
            height=height,
        )

    def _grasp(self, body: bytes) -> Reply:
        pose = np.array(json.loads(body)["grasp_pose"], dtype=np.float64)
        return self._acted("grasp", lambda: self._robot.execute_grasp(pose, self.world))

    def _place_2d(self, body: bytes) -> Reply:
        u, v = json.loads(body)["placement_point_2d"]
        place = Point(u=u, v=v)
        return self._acted(
            "place 2d", lambda: self._robot.place_object_at_2d_location(place, self.world)
        )

    def _place_3d(self, body: bytes) -> Reply:
        place = np.array(json.loads(body)["placement_point_3d"], dtype=np.float64)
        return self._acted(
            "place 3d", lambda: self._robot.place_object_at_3d_location(place, self.world)
        )

    def _acted(self, name: str, act: Callable[[], object]) -> Reply:
        from toolshed.tools.robot import RobotReply

        self.actions.append(name)
        try:
            reply = act()
        except ToolRefusal as refusal:
            return 422, refusal.text.encode()
        assert isinstance(reply, RobotReply) and isinstance(reply.value, RobotAction)
        self.world = reply.world
        assert reply.value.image is not None
        return 200, npz(
            success=reply.value.success,
            execution_time_s=reply.value.execution_time_s,
            image=reply.value.image.pixels,
        )


_TILT = np.arctan2(0.7, 0.3)
TOP_DOWN = np.array(
    [[1, 0, 0], [0, np.cos(_TILT), np.sin(_TILT)], [0, -np.sin(_TILT), np.cos(_TILT)]],
    dtype=np.float32,
)
"""A right-handed frame whose z axis is the direction of gravity that the release assumed."""


def sampled_grasps(
    points_m: npt.NDArray[np.float32], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Grasps around the points' middle, ever farther along the approach; some from below."""
    poses = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    for index in range(count):
        poses[index, :3, :3] = TOP_DOWN if index % 4 else TOP_DOWN @ np.diag([1, -1, -1])
        poses[index, :3, 3] = points_m.mean(axis=0) - TOP_DOWN[:, 2] * (0.05 + 0.005 * index)
    return poses, np.linspace(0.9, 0.3, count, dtype=np.float32)


@contextmanager
def grasp_server(asked: list[dict[str, object]], error: str = "") -> Iterator[str]:
    """GraspGen's socket: msgpack over ZeroMQ, arrays as msgpack-numpy writes them."""
    import msgpack  # type: ignore[import-untyped]
    import zmq

    from toolshed.backends.graspgen_server import packed_array, unpacked_array

    socket: Any = zmq.Context.instance().socket(zmq.REP)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if not socket.poll(20):
                continue
            sent = msgpack.unpackb(socket.recv(), object_hook=unpacked_array, strict_map_key=False)
            asked.append(sent)
            reply: dict[str, object] = {"status": "ok"}
            if sent["action"] == "infer":
                poses, scores = sampled_grasps(sent["point_cloud"], 12)
                reply = {"grasps": poses, "confidences": scores, "num_grasps": 12}
                reply = {"error": error} if error else reply
            socket.send(msgpack.packb(reply, default=packed_array))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()
        socket.close(linger=0)
