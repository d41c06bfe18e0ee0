"""The Ray side of tools: the actor that holds back-ends, and the cluster that actors live in.

Ray is imported inside functions, so that this module can be imported without it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolshed.config import ToolshedConfig
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.hosting import BackEndInstance, Outcome, Served

OBJECT_STORE_BYTES = 200 << 20
KEPT_BYTES = 32 << 20
"""What a caller keeps in the object store for its tools, and what a replica keeps of it."""
_INLINE_BYTES = 1 << 20
_LONGEST_TEMPORARY_PATH = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a replica says of one call. Errors are told, not raised: Ray would wrap and log them."""

    status: Literal["ok", "refused", "failed"]
    value: Outcome | None = None
    reason: str = ""
    text: str = ""
    run_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """How a replica's start ended."""

    tools: tuple[str, ...]
    """Dotted names of what is answered there."""
    user_error: str = ""
    """Why these back-ends cannot be had. Told, because of what a constructor raises Ray keeps only
    a text, which does not say whose fault it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """An argument that its caller has put into the object store, and may send many times."""

    key: str
    """The same for the same content."""
    reference: object
    num_bytes: int


class Replica:
    """One process with the back-ends of one or several families."""

    def __init__(self, families: Sequence[Served]) -> None:
        self._back_ends: dict[str, BackEndInstance] = {}
        user_error = ""
        try:
            for each in families:
                self._back_ends[each.name] = BackEndInstance(
                    each.name, each.location, each.arguments, each.methods
                )
        except (ConfigError, ImportError) as error:
            user_error = str(error)
        tools = tuple(f"{each.name}.{name}" for each in families for name in each.methods)
        self._started = Started(tools=tools, user_error=user_error)
        self._fetched: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._num_bytes = 0
        self._fetching = threading.Lock()

    def started(self) -> Started:
        """That this returns without a user's error says that the replica is ready."""
        return self._started

    def call(self, family: str, method: str, sent: dict[str, object]) -> Told:
        """Answer one call; every end of it but the death of this process is told."""
        arguments = {
            name: self._fetch(value) if isinstance(value, Sent) else value
            for name, value in sent.items()
        }
        started_s = time.perf_counter()
        try:
            value = self._back_ends[family].call(method, arguments)
        except ToolRefusal as refusal:
            run_s = time.perf_counter() - started_s
            return Told(status="refused", reason=refusal.reason, text=refusal.text, run_s=run_s)
        except ToolFailure as failure:
            return Told(status="failed", reason=failure.reason, text=failure.text)
        except Exception:  # the host boundary: from here a bug looks like a broken machine
            return Told(status="failed", reason="error", text=traceback.format_exc())
        return Told(status="ok", value=value, run_s=time.perf_counter() - started_s)

    def _fetch(self, sent: Sent) -> object:
        """What was sent, fetched at its first use here and kept while it is used often."""
        import ray

        with self._fetching:
            known = self._fetched.pop(sent.key, None)
            if known is None:
                known = (ray.get(sent.reference), sent.num_bytes)
                self._num_bytes += sent.num_bytes
            self._fetched[sent.key] = known
            while self._num_bytes > KEPT_BYTES and len(self._fetched) > 1:
                _, (_, dropped) = self._fetched.popitem(last=False)
                self._num_bytes -= dropped
            return known[0]


class Cluster:
    """The Ray cluster of this process: joined, or started and stopped by its last user."""

    _num_users = 0
    _folder: Path | None = None

    @classmethod
    def enter(cls, config: ToolshedConfig, num_cpus: float) -> None:
        """Join the cluster of ``ray_address``, use the one that is open, or start one."""
        # Read when Ray is loaded. The mode is Ray's default, which it announces unless it is given.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ConfigError(
                "host: ray needs Ray; pip install 'spacetools[ray]', or write 'host: local'"
            ) from error

        if config.ray_address is not None:
            cls._join(config.ray_address)
        elif not ray.is_initialized():
            cls._start(num_cpus)
        cls._num_users += 1

    @classmethod
    def leave(cls) -> None:
        import ray

        cls._num_users -= 1
        if cls._num_users == 0 and cls._folder is not None:
            ray.shutdown()
            shutil.rmtree(cls._folder, ignore_errors=True)
            cls._folder = None

    @classmethod
    def _start(cls, num_cpus: float) -> None:
        import ray

        place = tempfile.gettempdir()
        # Ray's sockets lie far below this folder, and a socket's path has 107 characters at most.
        root = place if len(place) <= _LONGEST_TEMPORARY_PATH else "/tmp"
        folder = Path(tempfile.mkdtemp(prefix="ts-", dir=root))
        ray.init(
            # Without an address Ray would join whatever cluster it finds on this machine.
            address="local",
            num_cpus=max(1, math.ceil(num_cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(folder),
            # A depth map in the reply itself is half as slow as one through the object store.
            _system_config={"max_direct_call_object_size": _INLINE_BYTES},
        )
        cls._folder = folder

    @classmethod
    def _join(cls, address: str) -> None:
        import ray

        found = read_address(address)
        if ray.is_initialized():
            here = ray.get_runtime_context().gcs_address
            if here != found:
                raise ConfigError(f"this process is in the Ray cluster {here}, not in {found}")
            return
        try:
            ray.init(address=found, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {found}; start the tools first: "
                "python -m toolshed.serve CONFIG --address-file FILE"
            ) from error


def read_address(address_or_file: str) -> str:
    """An address as it is, or the one in the file that ``toolshed.serve`` wrote."""
    path = Path(address_or_file)
    if path.suffix != ".json" and not path.is_file():
        return address_or_file
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no address of running tools ({error})") from error
