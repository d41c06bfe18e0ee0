"""``toolshed serve``: tools for other programs, through Ray or as an MCP server."""

from __future__ import annotations

from collections.abc import Sequence

_MCP = "--mcp"


def main(arguments: Sequence[str]) -> int:
    """Serve until interrupted."""
    words = list(arguments)
    if _MCP in words:
        from toolshed.mcp.server import main as serve_mcp

        words.remove(_MCP)
        return serve_mcp(words)
    from toolshed.serve import main as serve

    return serve(words)
