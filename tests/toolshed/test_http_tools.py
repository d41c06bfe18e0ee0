"""Tools behind HTTP: what is sent, what is read back, and every way in which a service can fail."""

from __future__ import annotations

import asyncio
import base64
import http.server
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.toolshed.contracts import table_picture
from tests.toolshed.services import RobotService, Route, npz, pointing_routes, serving
from toolshed.backends.http_service import HttpService, arrays_of
from toolshed.backends.roborefer_http import RoboReferHttp
from toolshed.backends.robot_http import RobotHttp
from toolshed.config import parse_tools
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Json, Point, RobotAction, ToolCall, ToolResult

IDENTITY: Json = [[float(i == j) for j in range(4)] for i in range(4)]


def answering(status: int, body: bytes) -> Route:
    return lambda sent: (status, body)


# ---- RoboRefer ---------------------------------------------------------------------------------


def test_a_query_has_the_published_fields_and_the_picture_unchanged() -> None:
    asked: list[dict[str, object]] = []
    image = table_picture()
    with serving(pointing_routes(asked)) as url:
        tool = RoboReferHttp(url=url, enable_depth=True, form=" [(x, y)]")
        found = tool.detect_one(image, "red object")
    (sent,) = asked
    assert list(sent) == ["image_url", "depth_url", "enable_depth", "text"]
    assert sent["text"] == "Point to the red object. [(x, y)]"
    assert sent["enable_depth"] == 1 and sent["depth_url"] == []
    (encoded,) = sent["image_url"]  # type: ignore[misc]
    seen = Image.open(io.BytesIO(base64.b64decode(encoded)))  # type: ignore[has-type]
    assert np.array_equal(np.asarray(seen), image.pixels)
    assert not found.announce and len(found.points) == 1


def test_d30_points_become_a_variable_where_the_config_says_so() -> None:
    """The release forced them away, whatever its config said."""
    with serving(pointing_routes([])) as url:
        assert (
            RoboReferHttp(url=url, announce=True).detect_all(table_picture(), "red object").announce
        )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, b'{"result": 1}'), ToolFailure),
        ((200, b'{"result": 1, "answer": null}'), ToolFailure),
        ((200, b"<html>"), ToolFailure),
        ((500, b"trace"), ToolFailure),
        ((302, b"http://127.0.0.1:9/"), ToolFailure),
        ((200, b'{"result": 1, "answer": "[(320, 240)]"}'), ToolRefusal),
        ((200, b'{"result": 1, "answer": "[]"}'), ToolRefusal),
    ],
)
def test_what_is_no_answer(answer: tuple[int, bytes], error: type[Exception]) -> None:
    routes = {"GET /": answering(200, b""), "POST /query": answering(*answer)}
    with serving(routes) as url:
        tool = RoboReferHttp(url=url)
        with pytest.raises(error):
            tool.detect_one(table_picture(), "cup")


def test_a_silent_server_is_found_out_when_the_tool_starts() -> None:
    with serving({}) as url, pytest.raises(ConfigError, match="no RoboRefer server answers there"):
        RoboReferHttp(url=url)
    with pytest.raises(ConfigError, match="start it, or correct the address"):
        RoboReferHttp(url=url)
    for address in ("127.0.0.1:25547", "ftp://host/", "", "http://", "file:///etc/passwd"):
        with pytest.raises(ConfigError, match="give the address of the service"):
            RoboReferHttp(url=address)


def test_a_server_that_is_busy_or_starts_anew_is_no_users_error() -> None:
    with serving({"GET /": answering(503, b"loading")}) as url:
        with pytest.raises(ToolFailure, match="answers 503"):
            RoboReferHttp(url=url)
        with pytest.raises(ToolFailure, match="unreachable"):
            HttpService("url", "http://127.0.0.1:9").get("/", timeout_s=1.0)
    port = int(url.rpartition(":")[2])
    later: list[http.server.HTTPServer] = []

    def start() -> None:
        later.append(http.server.HTTPServer(("127.0.0.1", port), _Empty))
        later[0].handle_request()

    thread = threading.Timer(0.4, start)
    thread.start()
    RoboReferHttp(url=url, timeout_s=20.0)
    thread.join()
    later[0].server_close()


class _Empty(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


# ---- any service -------------------------------------------------------------------------------


def test_a_slow_service_times_out_and_an_absent_one_is_unreachable() -> None:
    asleep = threading.Event()

    def slow(body: bytes) -> tuple[int, bytes]:
        asleep.wait(5)
        return 200, b""

    with serving({"GET /slow": slow}) as url:
        started_s = time.monotonic()
        with pytest.raises(ToolFailure) as caught:
            HttpService("url", url).get("/slow", timeout_s=0.2)
        assert caught.value.reason == "timeout" and time.monotonic() - started_s < 3
        asleep.set()
    with pytest.raises(ToolFailure) as caught:
        HttpService("url", url).get("/", timeout_s=1)
    assert caught.value.reason == "unreachable"


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_service_that_declines_refuses_in_its_own_words(status: int) -> None:
    told = pytest.raises(ToolRefusal, match="the drawer is closed")
    with serving({"POST /do": answering(status, b"the drawer\nis closed")}) as url, told as caught:
        HttpService("url", url).post("/do", {}, timeout_s=5)
    assert caught.value.reason == "rejected"


def test_arrays_are_never_unpickled() -> None:
    pickled = npz(success=np.array([print], dtype=object))
    with pytest.raises(ToolFailure, match="no npz of arrays"):
        arrays_of(pickled, "/x", ("success",))
    with pytest.raises(ToolFailure, match="no npz of arrays"):
        arrays_of(b"PK\x03\x04 broken", "/x", ())
    with pytest.raises(ToolFailure, match="lacks execution_time_s"):
        arrays_of(npz(success=True), "/x", ("success", "execution_time_s"))


# ---- the robot ---------------------------------------------------------------------------------


def play(session: Session, name: str, **arguments: Json) -> ToolResult:
    return asyncio.run(session.call(ToolCall(id="1", name=f"robot.{name}", arguments=arguments)))


def test_a_session_without_a_scene_moves_a_robot_that_stands_in_a_room() -> None:
    service = RobotService(3)
    with serving(service.routes()) as url:
        config = parse_tools({"robot": {"backend": "real", "arguments": {"robot_api_url": url}}})
        with Toolshed.open(config) as shed:
            session = shed.session()
            seen = play(session, "capture_image")
            assert seen.text == "Captured image: 448×336 pixels." and len(session.images) == 1
            depth = play(session, "get_depth")
            assert depth.text.startswith(
                "Retrieved depth map for 448x336 image from robot. Focal length: "
            )
            cloud = play(session, "get_depth_with_pointcloud")
            assert cloud.text.startswith("Retrieved depth map and generated ")
            assert " 3D points from robot data. Depth range in point cloud: " in cloud.text
            placed = play(session, "place_object_at_2d_location", placement_point_2d=[0.5, 0.6])
            assert placed.text == "Release operation failed.", "nothing is held yet"
            grasped = play(session, "execute_grasp", grasp_pose=IDENTITY)
            assert grasped.text in ("Grasp execution succeeded.", "Grasp execution failed.")
            assert isinstance(grasped.value, RobotAction) and len(session.images) == 3
            far = play(session, "place_object_at_3d_location", placement_point_3d=[0, 0, 3])
            assert far.status == "refused" and far.reason == "out_of_reach"
    assert service.actions == ["place 2d", "grasp"], "what is beyond reach is never sent"
    assert "captured_image" in session.variables and session.world is None


def test_a_silent_robot_fails_the_call_and_is_asked_once() -> None:
    service = RobotService(3)
    routes = service.routes()
    del routes["GET /capture_image"]
    routes["POST /execute_grasp"] = answering(200, npz(success="yes", execution_time_s=1.0))
    with serving(routes) as url:
        robot = RobotHttp(robot_api_url=url)
        with pytest.raises(ToolFailure, match="404"):
            robot.capture_image()
        with pytest.raises(ToolFailure, match="success is no number"):
            robot.execute_grasp(np.eye(4))
    assert service.actions == []


def test_places_go_out_as_lists_and_replies_come_back_typed() -> None:
    sent: list[object] = []

    def done(body: bytes) -> tuple[int, bytes]:
        sent.append(json.loads(body))
        return 200, npz(success=True, execution_time_s=3.5, image=np.zeros((2, 3, 3), np.uint8))

    with serving({"POST /place_object_at_2d_location": done}) as url:
        found = RobotHttp(robot_api_url=url).place_object_at_2d_location(Point(u=0.25, v=0.5))
    assert sent == [{"placement_point_2d": [0.25, 0.5]}]
    assert (found.success, found.execution_time_s, found.source) == (True, 3.5, "hardware")
    assert found.image is not None and (found.image.width, found.image.height) == (3, 2)


def test_d23_a_robot_without_an_address_says_so_when_it_starts() -> None:
    """The release shipped a config whose address was null, and crashed at the first call."""
    for url in (None, "robot.local"):
        with pytest.raises(ConfigError, match="robot_api_url: http"):
            RobotHttp(robot_api_url=url)
    with pytest.raises(ConfigError, match="reach_m"):
        RobotHttp(robot_api_url="http://127.0.0.1:1", reach_m=0.0)
