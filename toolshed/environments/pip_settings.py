"""What this machine tells pip about indexes, in uv's words; needs the standard library alone.

uv reads neither pip's configuration nor its environment. Without this it would ignore a CPU wheel
that the machine offers and fetch 3 GB of CUDA. As a program (with ``-I``: ``types.py`` lies beside
it) it prints ``export`` lines for a shell.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

_SPOKEN = {
    "find-links": ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
    "index-url": ("PIP_INDEX_URL", "UV_INDEX_URL"),
    "extra-index-url": ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL"),
    "cert": ("PIP_CERT", "SSL_CERT_FILE"),
}
"""A setting of pip: pip's variable and uv's."""


def uv_settings(configured: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for uv that are not set yet.

    ``configured`` is what ``pip config list`` prints; pip's variables in ``environ`` win over it.
    """
    found = {}
    for setting, (pip_name, uv_name) in _SPOKEN.items():
        value = environ.get(pip_name) or _configured(setting, configured)
        if value and uv_name not in environ:
            found[uv_name] = value.replace(" ", ",") if setting == "find-links" else value
    # pip takes the best version of all indexes, uv only looks at the first that knows a name.
    if "UV_INDEX_STRATEGY" not in environ:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def pip_configuration(python: str) -> str:
    """What the pip of an interpreter is configured with; empty where it has no pip."""
    command = [python, "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _configured(setting: str, configured: str) -> str:
    match = re.search(rf"^[^=\n]*\.{re.escape(setting)}='(.*)'$", configured, re.MULTILINE)
    return match[1] if match else ""


if __name__ == "__main__":
    for name, text in uv_settings(pip_configuration(sys.argv[1]), os.environ).items():
        print(f"export {name}={shlex.quote(text)}")
