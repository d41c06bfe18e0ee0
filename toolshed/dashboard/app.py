"""The dashboard's server: who may see the page, what the page is made of, and its news."""

from __future__ import annotations

import http.cookies
import importlib.resources
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from toolshed.dashboard.data import Place
from toolshed.dashboard.watch import Watch
from toolshed.front_door import bearer, headers_of, is_right, names_this_machine

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FAREWELL_S = 3
_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def make_app(place: Place, *, token: str | None, port: int) -> FastAPI:
    """The application; it asks the tools for news only while a page is open."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    watch = app.state.watch = Watch(place)

    async def events() -> StreamingResponse:
        return StreamingResponse(_events(watch), media_type="text/event-stream")

    async def overview() -> JSONResponse:
        return JSONResponse(await watch.once())

    async def picture(number: int) -> Response:
        found = watch.pictures.get(number)
        if found is None:
            return Response("this picture is no longer kept", status_code=404)
        return Response(found, media_type="image/jpeg")

    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _file_route(name, kind))
    app.add_api_route("/events", events)
    app.add_api_route("/overview", overview)
    app.add_api_route("/pictures/{number}.jpg", picture)
    app.add_middleware(_Guard, token=token, cookie=f"toolshed_{port}")
    return app


def run_server(app: FastAPI, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        # It would write tokens down.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_FAREWELL_S,
    )
    server = uvicorn.Server(config)
    take = server.handle_exit

    def end(number: int, frame: object) -> None:
        # Open pages hear news without end, and the server would wait for them.
        app.state.watch.closing = True
        take(number, frame)

    server.handle_exit = end
    # The server ends at these signals and raises them again: that is the end, and no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])


def _file_route(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = importlib.resources.files("toolshed.dashboard").joinpath("page", name).read_bytes()

    async def route() -> Response:
        return Response(content, media_type=kind)

    return route


async def _events(watch: Watch) -> AsyncIterator[str]:
    # How soon a browser that lost us asks again.
    yield "retry: 1000\n\n"
    async for news in watch.news():
        yield f"data: {json.dumps(news, separators=(',', ':'))}\n\n"


class _Guard:
    """Stands before every route: nothing is told to those who may not see it.

    Without a token only names of this machine are answered to, so that a foreign page cannot have
    its own name resolve to us and read what we say.
    """

    def __init__(self, app: _App, token: str | None, cookie: str) -> None:
        self._app, self._token, self._cookie = app, token, cookie

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = self._objection(scope)
        if answer is not None:
            answer.headers.update(_HEADERS)
            await answer(scope, receive, send)
            return

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), text.encode()) for name, text in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _objection(self, scope: _Scope) -> Response | None:
        """What to answer instead of the page; None for those who may see it."""
        headers = headers_of(scope)
        if self._token is None:
            if names_this_machine(headers):
                return None
            return HTMLResponse("This dashboard answers to localhost alone.", status_code=403)
        asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if "token" in asked:
            return self._let_in(scope["path"], asked)
        given = bearer(headers)
        if given is None:
            given = self._from_cookie(headers.get("cookie", ""))
        return None if is_right(given, self._token) else HTMLResponse(_ASK, status_code=401)

    def _let_in(self, path: str, asked: dict[str, list[str]]) -> Response:
        """The token moves from the address, which is shown and kept, into a cookie."""
        assert self._token is not None, "asked only where there is one"
        given = asked.pop("token")[-1]
        if not is_right(given, self._token):
            return HTMLResponse(_ASK, status_code=401)
        # One slash at the beginning: two would name another machine.
        place = "/" + path.lstrip("/")
        place += f"?{urlencode(asked, doseq=True)}" if asked else ""
        answer = Response(status_code=303, headers={"Location": place})
        answer.set_cookie(self._cookie, given, httponly=True, samesite="strict")
        return answer

    def _from_cookie(self, text: str) -> str:
        jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        try:
            jar.load(text)
        except http.cookies.CookieError:
            return ""
        return jar[self._cookie].value if self._cookie in jar else ""


_ASK = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Toolshed</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<h1>Toolshed</h1><p>This dashboard shows itself to those who have its token.</p>
<form><label>Token <input name="token" type="password" autofocus></label> <button>Enter</button>
</form></html>"""
