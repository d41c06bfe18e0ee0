"""From a tool config to running replicas: groups, the cluster, placement, the control actor, and
the thread that hears from it.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from toolshed.config import ToolshedConfig
from toolshed.errors import ConfigError, ToolFailure
from toolshed.hosting import Served, placed
from toolshed.metrics import Meter
from toolshed.serving.cluster import Cluster
from toolshed.serving.control import GIVEN_UP, NAME, Control
from toolshed.serving.members import Member
from toolshed.serving.placement import check_room, reserve
from toolshed.serving.pool import Pool
from toolshed.serving.registry import GroupSpec, Registry, SeatReport
from toolshed.serving.replica import FamilySettings
from toolshed.serving.reporter import Reporter

_RECONNECT_S = 0.2
_CLOSE_S = 0.2
"""How soon a thread that waits for news sees that there are to be none."""
_STOP_S = 20.0
"""How long the control actor may take to end everything."""
_MOST_AHEAD = 32
"""Calls that are sent to a replica before their turn, where they are very short."""


class Service:
    """The replicas of a config, started here or joined, and kept in view."""

    def __init__(self, config: ToolshedConfig, families: Sequence[Served], *, serve: bool) -> None:
        self._config = config
        self._joined = config.ray_address is not None and not serve
        self._groups = groups_of(families, joined=self._joined)
        # Others join by name; what nobody is to join must not be in anybody's way.
        is_shared = serve or self._joined
        self._namespace = config.namespace if is_shared else f"toolshed-{uuid.uuid4().hex}"
        self._pools = {each.key: _pool(each, families) for each in self._groups}
        self._key_of = {each.name: _process_of(each) for each in families}
        self._members: dict[str, Member] = {}
        self._control: Any = None
        self.ended = threading.Event()
        """Set when somebody else has stopped these tools."""
        self._reporter: Reporter | None = None
        self._listener: threading.Thread | None = None
        self._closed = threading.Event()
        _say("joining" if self._joined else "starting", "Ray")
        Cluster.enter(config, sum(each.cpus * each.replicas for each in self._groups))
        try:
            self._control = self._join() if self._joined else self._start()
            registry = self._await_ready(families)
        except BaseException:
            self.close()
            raise
        self._heard(registry)
        self._listener = threading.Thread(
            target=self._listen, args=(registry.version,), name="toolshed registry", daemon=True
        )
        self._listener.start()

    @property
    def namespace(self) -> str:
        return self._namespace

    def pool_of(self, family: str) -> Pool:
        return self._pools[self._key_of[family]]

    def look_at(self, member: Member) -> None:
        """Have a replica's health asked for at once."""
        self._control.look_at.remote(member.name)

    def report(self, meter: Meter) -> None:
        """Tell once a second, from a thread of its own, what a meter counts."""
        self._reporter = Reporter(self._control, meter, self._pools, self._key_of)

    def close(self) -> None:
        """End what was started here; the cluster ends with its last user."""
        import ray

        if self._closed.is_set():
            return
        self._closed.set()
        if self._listener is not None:
            self._listener.join(timeout=10 * _CLOSE_S)
        if self._reporter is not None:
            self._reporter.close()
        if self._control is not None and not self._joined and not self.ended.is_set():
            try:
                ray.get(self._control.stop.remote(), timeout=_STOP_S)
            except ray.exceptions.RayError as error:
                # Alive it ends all replicas, now or with its lease; without it nobody would.
                told = f"control actor does not answer ({type(error).__name__}); the tools end"
                _say("stop", f"{told} when nobody has asked after them for their lease")
            else:
                ray.kill(self._control, no_restart=True)
        Cluster.leave()

    # ---- start ---------------------------------------------------------------------------------

    def _start(self) -> Any:
        import ray

        if not self._is_over():
            raise self._taken()
        check_room(self._groups, self._config.pack)
        reservation = reserve(self._groups, self._config.pack)
        actor = ray.remote(Control).options(
            name=NAME,
            namespace=self._namespace,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=1000,
        )
        try:
            lease_s = self._config.lease_s
            control = actor.remote(self._namespace, self._groups, reservation, lease_s)
        except BaseException as error:
            # Nobody else knows of it, and it outlives this program.
            reservation.remove()
            if isinstance(error, ValueError):
                raise self._taken() from error
            raise
        control.start.remote()
        return control

    def _taken(self) -> ConfigError:
        return ConfigError(
            f"namespace {self._namespace!r} is being served already; stop those tools, or "
            "choose another --namespace"
        )

    def _join(self) -> Any:
        import ray

        try:
            return ray.get_actor(NAME, namespace=self._namespace)
        except ValueError as error:
            names = ", ".join(each.names for each in self._groups)
            place = f"{self._config.ray_address}, namespace {self._namespace!r}"
            raise ConfigError(
                f"nobody serves {names} at {place}; start toolshed serve "
                "with the same config and namespace"
            ) from error

    def _await_ready(self, families: Sequence[Served]) -> Registry:
        """Block until each place is filled, saying which family is ready."""
        import ray

        started_s = time.perf_counter()
        told: set[str] = set()
        version = 0
        while True:
            registry: Registry = ray.get(self._control.watch.remote(version))
            version = registry.version
            for group in self._groups:
                seats = registry.of_group(group.key)
                _check_alive(group, seats, joined=self._joined)
                if group.key not in told and _is_ready(group, seats, joined=self._joined):
                    told.add(group.key)
                    num, took_s = len(seats), time.perf_counter() - started_s
                    for each in group.families:
                        state = f"ready, {num} replica{'s' * (num > 1)} ({took_s:.1f} s)"
                        _say(each.spec.name, state)
            if len(told) == len(self._groups):
                self._check_tools(registry, families)
                return registry

    def _check_tools(self, registry: Registry, families: Sequence[Served]) -> None:
        """Whether tools that somebody else started answer what this config shows."""
        import ray

        if not self._joined:
            return
        wanted = {f"{each.name}.{method}" for each in families for method in each.spec.methods}
        actors = {seat.group: seat.actor for seat in registry.seats if seat.actor is not None}
        started = ray.get([each.started.remote() for each in actors.values()])
        missing = sorted(wanted - {tool for each in started for tool in each.tools})
        if missing:
            raise ConfigError(f"the running tools lack {', '.join(missing)}")

    # ---- news ----------------------------------------------------------------------------------

    def _listen(self, version: int) -> None:
        """Hear of every change, and by asking keep the lease; in a thread of its own, because the
        program's event loop may stand still for minutes while a model learns."""
        import ray

        while not self._closed.is_set():
            try:
                asked = self._control.watch.remote(version)
                # A thread that still waits for Ray when a program ends takes its exit code along.
                while not ray.wait([asked], timeout=_CLOSE_S)[0]:
                    if self._closed.is_set():
                        return
                registry: Registry = ray.get(asked)
            except ray.exceptions.RayError:
                if self._is_over():
                    self._end()
                    return
                # Ray is starting it again; callers go on with the replicas that they know.
                self._closed.wait(_RECONNECT_S)
                continue
            except (ValueError, RuntimeError, SystemError):
                return
            if registry.version != version and not self._closed.is_set():
                version = registry.version
                self._heard(registry)

    def _is_over(self) -> bool:
        """Whether somebody has ended these tools for good."""
        import ray

        try:
            ray.get_actor(NAME, namespace=self._namespace)
        except ValueError:
            return True
        return False

    def _end(self) -> None:
        text = "these tools were stopped, or nobody renewed their lease; start them again"
        for pool in self._pools.values():
            pool.update((), ToolFailure("stopped", text))
        self.ended.set()

    def _heard(self, registry: Registry) -> None:
        known, self._members = self._members, {}
        for group in self._groups:
            pool, members = self._pools[group.key], []
            seats = registry.of_group(group.key)
            for seat in seats:
                if seat.state != "ready":
                    continue
                member = known.get(seat.name) or _member(seat)
                self._members[seat.name] = member
                if not member.gone:
                    members.append(member)
            pool.update(members, _lost(group, seats))


def groups_of(families: Sequence[Served], *, joined: bool) -> tuple[GroupSpec, ...]:
    """Families by process word; what they share is the largest that one of them asks for.

    Where they are ``joined`` somebody else has placed them in their environments.
    """
    by_process: dict[str, list[Served]] = {}
    for each in families:
        by_process.setdefault(_process_of(each), []).append(each)
    return tuple(_group(key, members, joined=joined) for key, members in by_process.items())


def _group(key: str, families: Sequence[Served], *, joined: bool) -> GroupSpec:
    configs = [each.config for each in families]
    found = [(each.spec, None) if joined else placed(each, local=False) for each in families]
    environments = {environment for _, environment in found}
    if len(environments) > 1:
        names = ", ".join(each.name for each in families)
        raise ConfigError(f"{names} share the process {key!r}, so they need one environment")
    return GroupSpec(
        key=key,
        families=tuple(
            FamilySettings(
                spec=spec,
                max_batch_size=each.config.max_batch_size,
                max_wait_s=each.config.max_wait_ms / 1000,
                may_repeat=each.idempotent,
            )
            for each, (spec, _) in zip(families, found, strict=True)
        ),
        slots=configs[0].slots,
        replicas=max(each.replicas for each in configs),
        cpus=max(each.cpus for each in configs),
        gpus=max(each.gpus for each in configs),
        start_timeout_s=max(each.start_timeout_s for each in configs),
        run_timeout_s=max(map(_run_timeout_s, families)),
        restarts=max(each.restarts for each in configs),
        runtime_env=_runtime_env(environments.pop(), families),
    )


def _run_timeout_s(family: Served) -> float:
    config = family.config
    timeout_s = config.run_timeout_s or config.timeout_s
    # Behind the bridge the first call after a child's death also loads the model again.
    return timeout_s + (config.start_timeout_s if config.environment is not None else 0.0)


def _runtime_env(environment: str | None, families: Sequence[Served]) -> dict[str, Any]:
    """What Ray needs to start replicas in a tool environment, which is checked first."""
    if environment is None:
        return {}
    from toolshed.environments.environment import runtime_env

    modules = [each.spec.location.partition(":")[0] for each in families]
    return runtime_env(environment, modules)


def _process_of(family: Served) -> str:
    return family.config.process or family.name


def _pool(group: GroupSpec, families: Sequence[Served]) -> Pool:
    members = [each for each in families if _process_of(each) == group.key]
    batch = max(each.config.max_batch_size for each in members)
    return Pool(
        group.names,
        width=group.slots * batch,
        most_ahead=_MOST_AHEAD,
        max_queue=max(each.config.max_queue for each in members),
        stateful=any(each.stateful for each in members),
    )


def _member(seat: SeatReport) -> Member:
    actor = seat.actor
    return Member(
        name=seat.name,
        actor=actor,
        call_small=actor.call_small,
        call_large=actor.call.options(num_returns=2),
    )


def _is_ready(group: GroupSpec, seats: Sequence[SeatReport], *, joined: bool) -> bool:
    num_ready = sum(each.state == "ready" for each in seats)
    return num_ready > 0 if joined else num_ready >= group.replicas


def _check_alive(group: GroupSpec, seats: Sequence[SeatReport], *, joined: bool) -> None:
    """Raise what keeps a group from ever being ready, by whose fault it is. Of tools that others
    started one replica is enough; where we start them, the first that does not come says why."""
    if joined and not seats:
        raise _none_of(group)
    if joined:
        hopeless = [each for each in seats if each.state == "dead"]
        hopeless = hopeless if len(hopeless) == len(seats) else []
    else:
        hopeless = [each for each in seats if each.state != "ready" and each.reason]
    if hopeless:
        raise _error_of(hopeless[0])


def _error_of(seat: SeatReport) -> ConfigError | ToolFailure:
    given_up = seat.reason.startswith(GIVEN_UP)
    reason, _, text = seat.reason.removeprefix(GIVEN_UP).partition(": ")
    if seat.user_error:
        return ConfigError(text)
    return ToolFailure(reason, GIVEN_UP + text if given_up else text)


def _none_of(group: GroupSpec) -> ToolFailure:
    family = group.families[0].spec.name
    text = f"{group.names}: somebody has scaled it to 0 replicas; toolshed scale {family} 1"
    return ToolFailure("no_replicas", text)


def _lost(group: GroupSpec, seats: Sequence[SeatReport]) -> ToolFailure | None:
    """Why no replica will answer."""
    if not seats:
        return _none_of(group)
    dead = [each for each in seats if each.state == "dead"]
    if not dead or len(dead) < len(seats):
        return None
    error = _error_of(dead[-1])
    return error if isinstance(error, ToolFailure) else ToolFailure("user_error", str(error))


def _say(what: str, state: str) -> None:
    print(f"tools: {what} {state}", file=sys.stderr, flush=True)
