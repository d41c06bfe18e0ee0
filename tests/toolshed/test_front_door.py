"""Who may come in by HTTP: interfaces, tokens and names, by one set of rules for both servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from toolshed import front_door
from toolshed.command import USER_ERROR
from toolshed.commands import dashboard
from toolshed.errors import ConfigError
from toolshed.front_door import check_interface, guarded, is_loopback, read_token
from toolshed.mcp import server as mcp_server

SECRET = "sixteen letters!"


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.168.1.4", "::", "some.host"])
def test_other_interfaces_need_a_token(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_loopback(host)
    assert dashboard.main(["--host", host, "--port", "0"]) == USER_ERROR
    assert "give --token" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="give --token"):
        mcp_server.main(["light", "--http", f"{host or '0.0.0.0'}:0"])
    check_interface("--host", host, SECRET)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9", "[::1]"])
def test_this_machine_needs_none(host: str) -> None:
    check_interface("--host", host, None)


@pytest.mark.parametrize(
    "token", ["", "x", SECRET[1:], " " * 20, "tab\tand more letters", "schlüssel-schlüssel"]
)
def test_both_doors_refuse_a_token_that_protects_nothing(
    token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="at least 16 printable"):
        mcp_server.main(["light", "--http", "0.0.0.0:0", "--token", token])
    assert dashboard.main(["--host", "0.0.0.0", "--port", "0", "--token", token]) == USER_ERROR
    assert "at least 16 printable" in capsys.readouterr().err


def test_a_token_comes_from_one_place(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert read_token(None, file) == read_token(f"@{file}", None) == read_token(SECRET, None)
    assert read_token(None, None) is None
    with pytest.raises(ConfigError, match="not both"):
        read_token(SECRET, file)
    for given in ((None, tmp_path / "none"), (f"@{tmp_path}/none", None)):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_token(*given)


def answered(token: str | None, **headers: str) -> int:
    """The status that a request gets, 200 where it reached the application."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200)

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    sent = [(name.encode(), text.encode()) for name, text in headers.items()]
    scope = {"type": "http", "headers": sent}
    asyncio.run(guarded(app, token)(scope, None, send))  # type: ignore[arg-type]
    return statuses[0]


def test_the_guard_wants_the_token_or_a_name_of_this_machine() -> None:
    right = f"Bearer {SECRET}"
    assert answered(SECRET, authorization=right, host="some.host") == 200
    for wrong in ("", "Bearer", f"Bearer {SECRET}x", f"Basic {SECRET}", "Bearer \xff"):
        assert answered(SECRET, authorization=wrong, host="localhost") == 401
    for own in ("localhost", "127.0.0.1:80", "[::1]:80"):
        assert answered(None, host=own) == 200
    for foreign in ("", "some.host", "localhost.some.host:80"):
        assert answered(None, host=foreign) == 403


def test_a_port_that_is_taken_is_said_in_one_sentence() -> None:
    with front_door.bound("--port 0", "127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} cannot be had"):
            front_door.bound(f"--port {port}", "127.0.0.1", port)
