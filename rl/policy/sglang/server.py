"""One sglang server: its process, its log, whether it answers, and what it is asked.

It runs in an interpreter of its own, ends with this process whatever becomes of it, and takes its
children along.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

from rl.policy.base import PolicyFailure
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.requests import EngineRequest
from toolshed.environments.environment import find
from toolshed.environments.preflight import without_python_settings
from toolshed.errors import ConfigError

OLDEST, NEWEST = (0, 5, 18), (0, 5, 23)
"""Versions of sglang whose protocol this is; the newest one is tested."""
SESSIONS_SINCE = (0, 5, 21)
"""From here on a weight update has a beginning and an end."""
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of each language layer that may have adapters."""
_TAIL_BYTES = 4000
_GRACE_S = 5.0
_LAUNCH = """
import os, runpy, signal, sys, threading
lifeline = int(sys.argv.pop(1))
def end_with_parent():
    os.read(lifeline, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)
threading.Thread(target=end_with_parent, daemon=True).start()
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
"""
"""A lost parent closes the pipe, even where nobody could clean up after it."""


class EngineLost(Exception):
    """The server is gone or does not answer; what it was doing has to be asked again."""


class Server:
    """A server, started or not; used within one event loop from ``start`` to ``stop``."""

    def __init__(self, config: EngineConfig, number: int, log: Path) -> None:
        self.config, self.number, self.log = config, number, log
        self.address = ""
        self.sglang: tuple[int, ...] = ()
        """Its version, known once it runs."""
        self.version = 0
        """Of the weights that it holds."""
        self.kv_tokens = 0
        """Places of its cache, known once it runs."""
        self.num_starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._http: aiohttp.ClientSession | None = None

    def __str__(self) -> str:
        return f"engine {self.number} ({self.address or 'not started'}, log {self.log})"

    async def start(self, checkpoint: Path, version: int, first: EngineRequest) -> None:
        """Load a checkpoint and wait until a first request was answered.

        ConfigError where this sglang is none that we know; EngineLost where it does not start.
        """
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.version = version
        self.num_starts += 1
        self._spawn([*arguments(self.config, checkpoint, version), "--port", str(port)])
        self._http = new_session()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            await self._wait_until_up()
            self._check(await self._get("/server_info", self.config.patience_s))
            await self._begin(first)
            undo.pop_all()

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    async def is_healthy(self, limit_s: float) -> bool:
        """Whether its scheduler answered within ``limit_s``; asks for one token where it idles."""
        try:
            await self._get("/health", limit_s)
        except EngineLost:
            return False
        return True

    async def post(self, request: EngineRequest) -> Any:
        """The JSON that answers a request; None where it says nothing.

        ConfigError where the engine refuses the request, PolicyFailure where it met an error or
        says that the request did not succeed, EngineLost where it is gone or lets wait too long.
        """
        limit_s = {
            "patience": self.config.patience_s,
            "start": self.config.start_timeout_s,
            # A completion takes as long as it takes; the fleet watches whether its server lives.
            "for ever": None,
        }[request.waits]
        status, text = await self._exchange("POST", request.path, request.body(), limit_s)
        if status == 400 and request.path == "/generate":
            raise ConfigError(f"{self} refuses {request.path}: {text[:500]}")
        if status >= 400:
            raise PolicyFailure("engine_error", f"{request.path}: {status}: {text[:500]}")
        answer = json.loads(text) if text else None
        if isinstance(answer, dict) and answer.get("success") is False:
            words = answer.get("message") or answer.get("error_message")
            raise PolicyFailure("engine_error", f"{request.path}: {words}")
        return answer

    async def stop(self) -> None:
        """End it and its children; nothing of it is left when this returns."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        _signal(process, signal.SIGKILL)
        process.wait()
        os.close(self._lifeline)
        # Its children are not ours to wait for; the last of them takes the group along.
        deadline = time.monotonic() + _GRACE_S
        while _signal(process, 0) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """End its processes at once; requests in flight become EngineLost."""
        if self._process is not None:
            _signal(self._process, signal.SIGKILL)

    def words(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
        return "nothing"

    # ---- inside ---------------------------------------------------------------------------------

    def _spawn(self, words: list[str]) -> None:
        read, write = os.pipe()
        python, variables = interpreter(self.config)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [python, "-c", _LAUNCH, str(read), *words],
                    env={**variables, **_engine_variables(self.config, self.number)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(read,),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(write)
            raise ConfigError(f"{python} cannot be run: {error.strerror}") from error
        finally:
            os.close(read)
        self._lifeline = write

    async def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self.config.start_timeout_s
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise EngineLost(f"{self} ended while it started; it last said: {self.words()}")
            if await self.is_healthy(self.config.patience_s):
                return
            await asyncio.sleep(0.3)
        raise EngineLost(
            f"{self} did not start within {self.config.start_timeout_s:g} s; "
            f"it last said: {self.words()}"
        )

    async def _begin(self, first: EngineRequest) -> None:
        """Some of an engine is loaded, or compiled, with the first picture that it sees."""
        try:
            async with asyncio.timeout(self.config.start_timeout_s):
                await self.post(first)
        except TimeoutError as error:
            raise EngineLost(f"{self} answered no first request: {self.words()}") from error

    def _check(self, told: Any) -> None:
        self.sglang = known_version(str(told.get("version")))
        if told.get("preferred_sampling_params") or told.get("mm_process_config"):
            raise ConfigError(
                f"{self} changes requests by preferred_sampling_params or mm_process_config; "
                "start it without them"
            )
        # Told by the scheduler of every known version; not by what may stand in for one.
        self.kv_tokens = int(told.get("max_total_num_tokens") or 0)
        if 0 < self.kv_tokens < self.config.context_length:
            raise ConfigError(
                f"{self} has a cache of {self.kv_tokens} places, fewer than the "
                f"{self.config.context_length} of one sequence; raise engine.memory_share or "
                "engine.max_total_tokens, or lower max_length"
            )

    async def _get(self, path: str, limit_s: float) -> Any:
        status, text = await self._exchange("GET", path, None, limit_s)
        if status != 200:
            raise EngineLost(f"{self}: {path} answers {status}")
        return json.loads(text) if text else None

    async def _exchange(
        self, method: str, path: str, body: object, limit_s: float | None = None
    ) -> tuple[int, str]:
        if self._http is None:
            raise EngineLost(f"{self} was stopped")
        try:
            async with (
                asyncio.timeout(limit_s),
                self._http.request(method, self.address + path, json=body) as answer,
            ):
                return answer.status, await answer.text()
        except TimeoutError as error:
            raise EngineLost(f"{self}: {path}: no answer within {limit_s} s") from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            # RuntimeError: the session was closed while this request waited for a connection.
            raise EngineLost(f"{self}: {type(error).__name__}: {error}") from error


def new_session() -> aiohttp.ClientSession:
    """For requests to one server: as many as are asked at a time, each with its own limit of time.

    A connection is used once. Servers close idle ones after some seconds, and a POST that is sent
    at that moment fails without having reached anybody.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
    )


def arguments(config: EngineConfig, checkpoint: Path, version: int) -> list[str]:
    """The words after ``sglang.launch_server``, but for the port."""
    words = {
        "--model-path": str(checkpoint.resolve()),
        "--host": "127.0.0.1",
        "--device": config.device,
        "--dtype": config.dtype,
        "--mem-fraction-static": f"{config.memory_share:g}",
        "--weight-version": str(version),
    }
    flags = ["--enable-multimodal", "--skip-server-warmup"]
    if config.device == "cpu":
        # What a CPU has of sglang without its compiled kernels.
        words |= {"--attention-backend": "torch_native", "--sampling-backend": "pytorch"}
        flags += ["--disable-overlap-schedule"]
        # Cores that an idle engine would spin on are the learner's.
        flags += ["--sleep-on-idle"]
    if config.tensor_parallel > 1:
        words["--tensor-parallel-size"] = str(config.tensor_parallel)
    if config.max_total_tokens:
        words["--max-total-tokens"] = str(config.max_total_tokens)
    if config.context_length:
        words["--context-length"] = str(config.context_length)
    if config.max_running:
        words["--max-running-requests"] = str(config.max_running)
    if config.deterministic:
        flags += ["--enable-deterministic-inference"]
    if config.colocated:
        # Without the copy, weights that are not trained would be gone after the first sleep.
        flags += ["--enable-memory-saver", "--enable-weights-cpu-backup"]
    if config.way == "adapters":
        words |= {"--max-lora-rank": str(config.lora.rank), "--max-loras-per-batch": "4"}
        words |= {"--lora-backend": "torch_native"} if config.device == "cpu" else {}
        flags += ["--enable-lora", "--lora-target-modules", *ADAPTED]
    return [*(each for pair in words.items() for each in pair), *flags]


def interpreter(config: EngineConfig) -> tuple[str, dict[str, str]]:
    """The engine's Python and its environment variables; ConfigError where it was not made."""
    environment = find(config.environment)
    if environment.recipe is not None and environment.stamp is None:
        cpu = " --cpu" if config.device == "cpu" else ""
        raise ConfigError(
            f"engine.environment={config.environment!r} has not been made; "
            f"type bash setup_envs.sh sglang{cpu}"
        )
    if not environment.python.exists():
        raise ConfigError(f"engine.environment: there is no interpreter at {environment.python}")
    return str(environment.python), {**without_python_settings(), **environment.variables()}


def _engine_variables(config: EngineConfig, number: int) -> dict[str, str]:
    variables: dict[str, str] = {}
    if config.device == "cpu":
        # Compiling the tower's helpers would hold the first picture up for half a minute.
        variables |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCH_COMPILE_DISABLE": "1"}
    else:
        tp = config.tensor_parallel
        gpus = config.gpus or range(config.servers * tp)
        # Numbers are those that this process sees, which a job may have been given a part of.
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else [str(each) for each in range(max(gpus) + 1)]
        mine = gpus[number * tp : (number + 1) * tp]
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(names[each].strip() for each in mine)
    if config.trains_vision:
        # Its cache of picture features outlives a weight update (sgl-project/sglang 36468).
        variables["SGLANG_VLM_CACHE_SIZE_MB"] = "0"
    return variables


def known_version(text: str) -> tuple[int, ...]:
    """The three numbers of a version of sglang; ConfigError outside of the range that is known."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)(?!\d)", text)
    found = tuple(int(number) for number in match.groups()) if match else ()
    if not OLDEST <= found <= NEWEST:
        first, last = (".".join(map(str, each)) for each in (OLDEST, NEWEST))
        raise ConfigError(
            f"the engine is sglang {text}, and {first} to {last} are known; "
            "make its environment again: bash setup_envs.sh sglang"
        )
    return found


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether there was somebody to tell: the process leads a group, its children belong to it."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
