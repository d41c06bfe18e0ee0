"""Pointing by a RoboRefer server: its own HTTP API, ``GET /`` and ``POST /query``."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
from collections.abc import Sequence

from PIL import Image

from toolshed.backends.asked_pointing import Asked, AskedPointing
from toolshed.backends.http_service import HttpService
from toolshed.backends.pointing_texts import tuple_points
from toolshed.backends.roborefer import ASK_ALL, ASK_ONE, FORM
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.types import Point

_PAUSES_S = (0.2, 0.6, 1.2)
"""Before a server that is silent is asked again: one that starts anew is soon back."""
_FOR_NOW = (429, 502, 503, 504)
"""Statuses of a server that is there and will answer later."""


class RoboReferHttp(AskedPointing):
    """RoboRefer behind its API; one picture at a time, because the server takes no more."""

    def __init__(
        self,
        *,
        url: str = "http://127.0.0.1:25547",
        enable_depth: bool = False,
        timeout_s: float = 60.0,
        announce: bool = False,
        ask_one: str = ASK_ONE,
        ask_all: str = ASK_ALL,
        form: str = FORM,
    ) -> None:
        """``enable_depth`` lets the server estimate relative depth first and use it.

        ConfigError where no such server is at ``url``, ToolFailure where one is and is too slow or
        busy.
        """
        super().__init__(announce=announce, ask_one=ask_one, ask_all=ask_all)
        self._service = HttpService("url", url)
        try:
            _await(self._service, timeout_s)
        except (ToolFailure, ToolRefusal) as error:
            if _is_for_now(error):
                raise
            raise ConfigError(
                f"url = {url!r}: no RoboRefer server answers there ({error}); start it, or correct "
                "the address"
            ) from error
        self._enable_depth, self._timeout_s, self._form = enable_depth, timeout_s, form

    def written(self, asked: Sequence[Asked]) -> list[str]:
        return [self._write(each) for each in asked]

    def read(self, text: str) -> tuple[Point, ...]:
        return tuple_points(text)

    def _write(self, asked: Asked) -> str:
        file = io.BytesIO()
        Image.fromarray(asked.image.pixels).save(file, "PNG")
        body = self._service.post(
            "/query",
            {
                "image_url": [base64.b64encode(file.getvalue()).decode("ascii")],
                "depth_url": [],
                "enable_depth": int(self._enable_depth),
                "text": asked.text + self._form,
            },
            timeout_s=self._timeout_s,
        )
        try:
            answer = json.loads(body)["answer"]
        except (ValueError, KeyError, TypeError) as error:
            raise ToolFailure("bad_response", f"/query answers {body[:100]!r}") from error
        if not isinstance(answer, str):
            raise ToolFailure("bad_response", f"/query answers no text but {answer!r}"[:200])
        return answer


def _await(service: HttpService, timeout_s: float) -> None:
    """Ask whether the server is there; a few times, where nothing is."""
    for pause_s in _PAUSES_S:
        try:
            service.get("/", timeout_s=timeout_s)
        except ToolFailure as failure:
            if failure.reason != "unreachable":
                raise
            time.sleep(pause_s)
        else:
            return
    service.get("/", timeout_s=timeout_s)


def _is_for_now(error: ToolFailure | ToolRefusal) -> bool:
    if isinstance(error, ToolFailure) and error.reason == "timeout":
        return True
    cause = error.__cause__
    return isinstance(cause, urllib.error.HTTPError) and cause.code in _FOR_NOW
