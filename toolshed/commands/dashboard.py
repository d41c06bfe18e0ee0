"""toolshed dashboard: a page that shows running tools as they work.

It only looks. It answers on the loopback interface unless told otherwise, and on any other one only
to those who have the token.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from toolshed.command import run_command
from toolshed.commands.remote import add_flags, locate
from toolshed.dashboard.data import Place
from toolshed.errors import ConfigError
from toolshed.front_door import add_token_flags, bound, check_interface, read_token, url

PORT = 7001


def main(arguments: Sequence[str]) -> int:
    """Serve the page until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _serve(options), "toolshed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed dashboard", description="Show running tools in a browser."
    )
    add_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="interface to answer on")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    add_token_flags(parser)
    return parser


def _serve(options: argparse.Namespace) -> int:
    token = read_token(options.token, options.token_file)
    check_interface("--host", options.host, token)
    try:
        from toolshed.dashboard.app import make_app, run_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the dashboard needs {error.name}; pip install 'spacetools[serve]'"
        ) from error
    listening = bound(f"--host {options.host} --port {options.port}", options.host, options.port)
    # Where no tools are known, the Ray cluster that is found on this machine.
    locate(options, otherwise="auto")
    place = _join(options.address, options.namespace)
    port = listening.getsockname()[1]
    print(f"dashboard: {url(options.host, port)}", flush=True)
    run_server(make_app(place, token=token, port=port), listening)
    return 0


def _join(address: str, namespace: str) -> Place:
    """Enter the cluster of the tools; ConfigError where nobody serves any there."""
    from toolshed.serving.remote import status

    status(address, namespace)
    import ray

    return Place(address=ray.get_runtime_context().gcs_address, namespace=namespace)
