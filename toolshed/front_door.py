"""Who may come in by HTTP: the one set of rules of the dashboard and of the MCP server.

The loopback interface needs no token, but answers to names of this machine alone, so that a foreign
page cannot have its own name resolve to us. Any other interface needs one.
"""

from __future__ import annotations

import argparse
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias

from toolshed.errors import ConfigError

TOKEN_CHARS = 16
"""Of the shortest token that is taken."""
Scope: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[[Scope, Any, Any], Awaitable[None]]
"""An ASGI application."""


def add_token_flags(parser: argparse.ArgumentParser) -> None:
    """``--token``, and ``--token-file`` as another word for ``--token @FILE``."""
    parser.add_argument(
        "--token",
        default=None,
        help="what clients must send as 'Authorization: Bearer TOKEN', of at least "
        f"{TOKEN_CHARS} characters; @FILE: read from FILE, unseen by 'ps'",
    )
    parser.add_argument(
        "--token-file", type=Path, default=None, metavar="FILE", help="the same as --token @FILE"
    )


def read_token(token: str | None, file: Path | None) -> str | None:
    """The token that the flags give, None without one; ConfigError for one that is short, cannot
    be sent or cannot be read."""
    if file is not None:
        if token is not None:
            raise ConfigError("give --token or --token-file, not both")
        token = f"@{file}"
    if token is None:
        return None
    if token.startswith("@"):
        try:
            token = Path(token[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token {token}: the file cannot be read: {error}") from error
    if len(token) < TOKEN_CHARS or not (token.isascii() and token.isprintable() and token.strip()):
        raise ConfigError(
            f"--token must have at least {TOKEN_CHARS} printable ASCII characters, not "
            f"{len(token)}, for example those of 'openssl rand -hex 16'"
        )
    return token


def check_interface(flag: str, host: str, token: str | None) -> None:
    """Raise ConfigError where others than this machine could come in without a token."""
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"{flag} {host or repr(host)} can be reached from other machines: give --token too "
            f"(for example from 'openssl rand -hex 16'), or use 127.0.0.1 and an SSH tunnel"
        )


def is_loopback(host: str) -> bool:
    """Whether an interface, or a name for one, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bound(flag: str, host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is said in one sentence, and who comes
    before the server is up waits for it."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{flag} cannot be had ({error}); choose another port, or 0 for a free one"
        ) from error
    return listening


def url(host: str, port: int) -> str:
    """As a browser wants it."""
    name = {"": "0.0.0.0"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of an ASGI request, by their names in small letters."""
    return {name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]}


def names_this_machine(headers: dict[str, str]) -> bool:
    """Whether a request was addressed to this machine by one of its own names."""
    name, colon, port = headers.get("host", "").rpartition(":")
    return is_loopback(name if colon and port.isdigit() else headers.get("host", ""))


def bearer(headers: dict[str, str]) -> str | None:
    """The token in a request's ``Authorization``; None where it brings none in that form."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else None


def is_right(given: str, token: str) -> bool:
    """Compared in a time that tells nothing about the token."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())


def guarded(app: App, token: str | None) -> App:
    """An application that only those reach who bring the token, or, without one, who name this
    machine."""

    async def asked(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        headers = headers_of(scope)
        told = [(b"content-length", b"0")]
        if token is None:
            status = 200 if names_this_machine(headers) else 403
        else:
            status = 200 if is_right(bearer(headers) or "", token) else 401
            told.append((b"www-authenticate", b"Bearer"))
        if status == 200:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": b""})

    return asked
