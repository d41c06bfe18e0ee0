"""The whole DIRL pipeline in miniature: ``python -m eval.demo`` (``bash scripts/demo.sh``).

The driver starts the tool server and two worker processes, hands them the works of
``eval.demo.works`` as their inputs become ready, and rewrites the report as results come in. It
may be interrupted at any time: a finished work is not done again while its fingerprint stands.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from eval.demo.facts import Usage, facts_of, last_words, live_figure
from eval.demo.report import publish, table
from eval.demo.worker import serve_works, start_log
from sft.run_dir import check_folder, take_lock, write_atomic
from toolshed.command import INTERRUPTED, MACHINE_FAILURE, USER_ERROR, run_command
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from eval.demo.works import Plan

DEFAULT_SEED = 1
LAST_SEED = 2_147_482
"""Data sets have a thousand seeds for each of the demo's, below 2**31."""
EXPECTED_S = 600
NEEDED_GB = 6.0
_PUBLISH_EVERY_S = 20.0
_TICK_S = 2.0
_LAST_WORDS_S = 10.0
"""A dead worker's pipe closes a moment before its exit code is known."""
NAMESPACE = "spacetools-demo"
ROOT = Path(__file__).resolve().parents[2]


class WorkFailed(Exception):
    """A worker died; the message says how, and where its log is."""

    def __init__(self, words: str, code: int = MACHINE_FAILURE) -> None:
        super().__init__(words)
        self.code = code
        """Of the command."""


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    plan: Plan | None = None
    since: float = 0.0

    def receive(self, task: str, log: Path) -> Any:
        """What the worker says next; WorkFailed where it died instead."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._failed(task, log) from error

    def assign(self, plan: Plan, log: Path) -> None:
        self.plan, self.since = plan, time.monotonic()
        try:
            self.pipe.send(plan.name)
        except OSError as error:
            raise self._failed("a worker", log) from error

    def _failed(self, task: str, log: Path) -> WorkFailed:
        self.process.join(_LAST_WORDS_S)
        code = self.process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", as the system does when memory runs out"
        # A killed process says nothing; what its log ends with is older.
        said = last_words(log) if code and code > 0 else ""
        owner = USER_ERROR if code == USER_ERROR else MACHINE_FAILURE
        return WorkFailed(f"{task} failed ({how}){said and f': {said}'}; its log is {log}", owner)


@dataclass
class _Driver:
    """One attempt at a run."""

    out: Path
    seed: int
    smoke: bool
    setup_s: float | None
    usage: Usage
    workers: list[_Worker] = field(default_factory=list)
    waiting: list[Plan] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    published: float = 0.0
    server: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        self._write_tools_config()
        self._start_workers()
        every: list[Plan] = self.workers[0].receive("the first worker", start_log(self.out, 0))
        self.waiting = [plan for plan in every if not self._is_done(plan)]
        self.done = {plan.name for plan in every} - {plan.name for plan in self.waiting}
        self._clear_stale()
        self.usage.counts = bool(self.waiting)
        if any(plan.tools for plan in self.waiting):
            self._start_server()
        while self.waiting or any(worker.plan for worker in self.workers):
            self._assign()
            self._collect()
            self._tell()
        self.usage.ended = time.monotonic()
        self._publish()

    # ---- works ----------------------------------------------------------------------------------

    def _is_done(self, plan: Plan) -> bool:
        path = self._mark(plan.name)
        return path.exists() and json.loads(path.read_text())["fingerprint"] == plan.fingerprint

    def _mark(self, name: str) -> Path:
        return self.out / "done" / f"{name}.json"

    def _clear_stale(self) -> None:
        """Delete what was made with another config or from other inputs."""
        for plan in self.waiting:
            self._mark(plan.name).unlink(missing_ok=True)
            begun = self.out / "begun" / plan.name
            if begun.exists() and begun.read_text() == plan.fingerprint:
                continue
            if plan.folder is not None:
                shutil.rmtree(plan.folder, ignore_errors=True)
            for path in plan.files:
                path.unlink(missing_ok=True)
            write_atomic(begun, plan.fingerprint)

    def _assign(self) -> None:
        """Give each idle worker the most urgent work whose inputs are there."""
        for number, worker in enumerate(self.workers):
            if worker.plan is not None:
                continue
            ready = (plan for plan in self.waiting if self._is_ready(plan))
            plan = next(ready, None)
            if plan is None:
                return
            self.waiting.remove(plan)
            worker.assign(plan, start_log(self.out, number))

    def _is_ready(self, plan: Plan) -> bool:
        if plan.tools and not (self.out / "ray_address.json").exists():
            return False
        return self.done.issuperset(plan.needs)

    def _collect(self) -> None:
        """Wait a moment for workers, and mark what they finished."""
        busy = [worker.pipe for worker in self.workers if worker.plan]
        if not busy:
            time.sleep(_TICK_S)
        for pipe in wait(busy, timeout=_TICK_S):
            worker = next(worker for worker in self.workers if worker.pipe is pipe)
            assert worker.plan is not None
            name = worker.plan.name
            seconds = float(worker.receive(name, self._log_of(worker)))
            self._finish(worker.plan, seconds)
            worker.plan = None

    def _log_of(self, worker: _Worker) -> Path:
        """Where a busy worker writes: the work's log, or its own until it has begun the work."""
        assert worker.plan is not None
        log = self.out / "logs" / f"{worker.plan.name}.log"
        return log if log.exists() else start_log(self.out, self.workers.index(worker))

    def _finish(self, plan: Plan, seconds: float) -> None:
        self.done.add(plan.name)
        record = {"fingerprint": plan.fingerprint, "seconds": round(seconds, 2)}
        write_atomic(self._mark(plan.name), json.dumps(record))
        self._say(f"{plan.name} done in {seconds:.0f} s")
        if time.monotonic() - self.published > _PUBLISH_EVERY_S:
            self._publish()

    # ---- processes ------------------------------------------------------------------------------

    def _write_tools_config(self) -> None:
        """The demo's tools, found at the server that this run starts."""
        tools = yaml.safe_load((ROOT / "configs" / "tools" / "demo.yaml").read_text())
        tools["ray_address"] = str(self.out / "ray_address.json")
        tools["namespace"] = NAMESPACE
        write_atomic(self.out / "tools.yaml", yaml.safe_dump(tools, sort_keys=False))

    def _start_workers(self) -> None:
        context = multiprocessing.get_context("spawn")
        num = min(2, len(os.sched_getaffinity(0)))
        for number in range(num):
            here, there = context.Pipe()
            process = context.Process(
                target=serve_works,
                args=(there, self.out, self.seed, self.smoke, number),
                daemon=True,
            )
            process.start()
            there.close()
            self.workers.append(_Worker(process, here))

    def _start_server(self) -> None:
        address = self.out / "ray_address.json"
        address.unlink(missing_ok=True)
        log = (self.out / "logs" / "tools.log").open("wb")
        self.server = subprocess.Popen(
            [
                *(sys.executable, "-m", "toolshed.serve", "demo", "--until-stdin-closes"),
                *("--namespace", NAMESPACE, "--address-file", str(address)),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
        log.close()

    def close(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            # One that waits for work ends by itself; killed, it would leave its semaphores behind.
            if worker.plan is None:
                worker.process.join(_LAST_WORDS_S)
            worker.process.terminate()
        if self.server is not None:
            assert self.server.stdin is not None
            self.server.stdin.close()
            try:
                self.server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.server.kill()
        self.usage.save()

    # ---- telling --------------------------------------------------------------------------------

    def _tell(self) -> None:
        if self.server is not None and self.server.poll() is not None:
            raise WorkFailed(f"the tool server ended; its log is {self.out}/logs/tools.log")
        self.usage.sample()
        running = [
            f"{w.plan.name} {live_figure(self.out, w.plan.name)}" for w in self.workers if w.plan
        ]
        line = f"[{self._elapsed()}] {' · '.join(running)} · about {self._left_s():.0f} s left"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            print(f"\r\033[K{line[: width - 1]}", end="", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{clear}[{self._elapsed()}] {text}", file=sys.stderr, flush=True)

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(self.usage.wall_s), 60)
        return f"{minutes:2d}:{seconds:02d}"

    def _left_s(self) -> float:
        running = [w.plan.seconds - (time.monotonic() - w.since) for w in self.workers if w.plan]
        whole = sum(plan.seconds for plan in self.waiting) + sum(max(0.0, r) for r in running)
        return whole / len(self.workers)

    def _publish(self) -> None:
        self.usage.save()
        summary = publish(self.out, facts_of(self.out, self.seed, self.smoke, self.setup_s))
        self.published = time.monotonic()
        if not self.waiting and not any(worker.plan for worker in self.workers):
            print(table(summary))


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.demo``."""
    args = _parser().parse_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl", "eval")


def _run(args: argparse.Namespace) -> int:
    # On small models a second thread costs 20 times what it brings; workers inherit this.
    os.environ["OMP_NUM_THREADS"] = "1"
    if not 0 <= args.seed <= LAST_SEED:
        raise ConfigError(f"--seed {args.seed} must lie between 0 and {LAST_SEED}")
    out = args.out.absolute() if args.out else ROOT / "runs" / _folder_name(args.seed, args.smoke)
    # Runs older than the lock have a begun folder.
    check_folder(out, "begun", key="--out")
    lock = take_lock(out, "is in use by a demo that runs; wait for it, or choose another --out")
    try:
        return _attempt(args, out)
    finally:
        lock.close()


def _attempt(args: argparse.Namespace, out: Path) -> int:
    (out / "logs").mkdir(exist_ok=True)
    _warn()
    driver = _Driver(
        out=out,
        seed=args.seed,
        smoke=args.smoke,
        setup_s=args.setup_s,
        usage=Usage.load(out / "usage.json"),
    )
    try:
        driver.run()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except WorkFailed as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return error.code
    finally:
        driver.close()
    _farewell(driver)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.demo", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--smoke", action="store_true", help="the same path with tiny step counts; learns nothing"
    )
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of everything (1)")
    parser.add_argument("--out", type=Path, help="folder of the run (runs/demo, demo-smoke, ...)")
    parser.add_argument("--setup-s", type=float, default=None, help=argparse.SUPPRESS)
    return parser


def _folder_name(seed: int, smoke: bool) -> str:
    name = "demo-smoke" if smoke else "demo"
    return name if seed == DEFAULT_SEED else f"{name}-seed{seed}"


def _warn() -> None:
    """Say beforehand what will make it slow."""
    cores = len(os.sched_getaffinity(0))
    free_gb = psutil.virtual_memory().available / 2**30
    if cores < 2:
        print(
            f"one core only: expect {2 * EXPECTED_S // 60} minutes instead of {EXPECTED_S // 60}",
            file=sys.stderr,
        )
    if free_gb < NEEDED_GB:
        print(
            f"{free_gb:.1f} GB of memory are free, up to {NEEDED_GB:.0f} GB may be needed: expect "
            f"more than {EXPECTED_S // 60} minutes if the machine swaps, or free some first",
            file=sys.stderr,
        )


def _farewell(driver: _Driver) -> None:
    out = driver.out.relative_to(ROOT) if driver.out.is_relative_to(ROOT) else driver.out
    usage = driver.usage
    print("" if usage.counts else "\nall was done already; the run took")
    print(f"{usage.wall_s:.0f} s, {usage.cpu_s:.0f} CPU-s, peak {usage.peak_memory_mb:.0f} MB")
    print(f"report: {out}/report.html")
    question = "How far from the camera is the leftmost object?"
    print(f"ask:    .venv/bin/python -m rl.ask {out}/full_rl --scene 7 '{question}'")
