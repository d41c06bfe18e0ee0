"""Asking a service over HTTP: no redirects, no proxies, a bounded answer, and typed failures.

A service that says the request itself is bad refuses the call; one that is silent, broken or too
slow fails it.
"""

from __future__ import annotations

import http.client
import io
import json
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from email.message import Message
from typing import IO

import numpy as np
import numpy.typing as npt

from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.types import Json

REFUSING = (400, 409, 422)
"""Statuses by which a service says that what was asked is impossible."""
MAX_REPLY_BYTES = 512 << 20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """A tool talks to whom the config names and to nobody else."""


class HttpService:
    """A service at one address."""

    def __init__(self, name: str, url: str | None) -> None:
        """``name`` is the argument that ``url`` came from; ConfigError where it is no address."""
        parts = urllib.parse.urlsplit(url or "")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError(
                f"{name} = {url!r}; give the address of the service, for example "
                f"'arguments: {{{name}: http://127.0.0.1:8000}}'"
            )
        self.url = str(url).rstrip("/")
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), _NoRedirects()
        ).open

    def get(self, path: str, *, timeout_s: float) -> bytes:
        """Body of the answer; raises ToolRefusal or ToolFailure."""
        return self._asked(urllib.request.Request(self.url + path), timeout_s)

    def post(self, path: str, content: Mapping[str, Json], *, timeout_s: float) -> bytes:
        """Send JSON; the body of the answer. Raises ToolRefusal or ToolFailure."""
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        return self._asked(request, timeout_s)

    def _asked(self, request: urllib.request.Request, timeout_s: float) -> bytes:
        try:
            with self._open(request, timeout=timeout_s) as reply:
                body: bytes = reply.read(MAX_REPLY_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                told = error.read(2000).decode("utf-8", "replace")
            raise _declined(request.full_url, error.code, told) from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                raise ToolFailure(
                    "timeout", f"{request.full_url} took longer than {timeout_s:g} s"
                ) from error
            raise ToolFailure("unreachable", f"{request.full_url}: {reason}") from error
        if len(body) > MAX_REPLY_BYTES:
            raise ToolFailure("bad_response", f"{request.full_url} sent too much")
        return body


def _declined(url: str, status: int, told: str) -> ToolRefusal | ToolFailure:
    shown = " ".join(told.split())[:200]
    if status in REFUSING:
        return ToolRefusal("rejected", shown or f"the service answers {status}")
    return ToolFailure("bad_response", f"{url} answers {status}: {shown}")


def arrays_of(body: bytes, what: str, names: tuple[str, ...]) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an ``npz``, never unpickled; ToolFailure where it is none or lacks a name."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ToolFailure("bad_response", f"{what} is no npz of arrays: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ToolFailure("bad_response", f"{what} lacks {', '.join(missing)}")
    return found
