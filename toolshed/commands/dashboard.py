"""toolshed dashboard: a page that shows running tools as they work.

It only looks. It answers on the loopback interface unless told otherwise, and on any other one only
to those who have the token.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

from toolshed.command import run_command
from toolshed.dashboard.data import Place
from toolshed.errors import ConfigError
from toolshed.serving.cluster import prepare

PORT = 7001


def main(arguments: Sequence[str]) -> int:
    """Serve the page until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _serve(options), "toolshed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed dashboard", description="Show running tools in a browser."
    )
    parser.add_argument(
        "--address",
        default="auto",
        help="address of the tools, or the file that 'toolshed serve --address-file' wrote; "
        "where it is missing, the Ray cluster that is found on this machine",
    )
    parser.add_argument("--namespace", default="toolshed", help="Ray namespace of the tools")
    parser.add_argument("--host", default="127.0.0.1", help="interface to answer on")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    parser.add_argument("--token", default=None, help="what a browser must know to see the page")
    parser.add_argument(
        "--token-file", type=Path, default=None, help="the same from a file, unseen by 'ps'"
    )
    return parser


def _serve(options: argparse.Namespace) -> int:
    token = read_token(options.token, options.token_file)
    check_interface(options.host, token)
    try:
        from toolshed.dashboard.app import make_app, run_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the dashboard needs {error.name}; pip install 'spacetools[serve]'"
        ) from error
    listening = _bound(options.host, options.port)
    prepare()
    place = _join(options.address, options.namespace)
    port = listening.getsockname()[1]
    # Who comes before the server is up waits for it.
    listening.listen()
    print(f"dashboard: {_url(options.host, port)}", flush=True)
    run_server(make_app(place, token=token, port=port), listening)
    return 0


def read_token(token: str | None, file: Path | None) -> str | None:
    """The token that was given; ConfigError for one that protects nothing."""
    if file is not None:
        if token is not None:
            raise ConfigError("give --token or --token-file, not both")
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {file} cannot be read: {error}") from error
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ConfigError("the token is empty or has characters that no browser can send")
    return token


def check_interface(host: str, token: str | None) -> None:
    """Raise ConfigError where others than this machine could see the page without a token."""
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host or repr(host)} can be reached from other machines: give --token too "
            "(for example from 'openssl rand -hex 16'), or leave --host out and use an SSH tunnel"
        )


def is_loopback(host: str) -> bool:
    """Whether an interface, or a name for one, is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, so that one that is taken is said in one sentence."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--host {host} --port {port} cannot be had ({error}); choose another, "
            "or --port 0 for a free one"
        ) from error
    return listening


def _join(address: str, namespace: str) -> Place:
    """Enter the cluster of the tools; ConfigError where nobody serves any there."""
    from toolshed.serving.remote import status

    status(address, namespace)
    import ray

    return Place(address=ray.get_runtime_context().gcs_address, namespace=namespace)


def _url(host: str, port: int) -> str:
    name = {"": "0.0.0.0"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
