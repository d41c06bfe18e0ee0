"""Who may see the dashboard: interfaces and tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolshed.command import USER_ERROR
from toolshed.commands.dashboard import check_interface, is_loopback, main, read_token
from toolshed.errors import ConfigError


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.168.1.4", "::", "some.host"])
def test_other_interfaces_need_a_token(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_loopback(host)
    assert main(["--host", host, "--port", "0"]) == USER_ERROR
    assert "give --token" in capsys.readouterr().err
    check_interface(host, "secret")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9", "[::1]"])
def test_this_machine_needs_none(host: str) -> None:
    check_interface(host, None)


@pytest.mark.parametrize("token", ["", "  ", "tab\t", "schlüssel"])
def test_a_token_that_protects_nothing_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        read_token(token, None)


def test_a_token_comes_from_one_place(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert read_token(None, tmp_path / "token") == "secret"
    with pytest.raises(ConfigError, match="not both"):
        read_token("x", tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(None, tmp_path / "none")
