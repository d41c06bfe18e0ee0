"""Running tools, looked at and changed from another program: status, scale, drain, stop."""

from __future__ import annotations

import time
from typing import Any

from toolshed.errors import ConfigError, ToolFailure
from toolshed.serving.cluster import join
from toolshed.serving.control import NAME
from toolshed.serving.registry import Registry

_TIMEOUT_S = 20.0
_PAUSE_S = 0.2


def status(address: str, namespace: str = "toolshed") -> Registry:
    """Every replica of the tools served at an address, or at the file that names it."""
    until_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            registry: Registry = _asked(address, namespace, "registry")
            return registry
        except ToolFailure:
            # Where it was lost, Ray starts it again within seconds.
            if time.monotonic() > until_s:
                raise
            time.sleep(_PAUSE_S)


def scale(address: str, family: str, replicas: int, namespace: str = "toolshed") -> None:
    """Have so many replicas of a family (and of those that share its processes) from now on."""
    _asked(address, namespace, "scale", family, replicas)


def drain(address: str, family: str, index: int, namespace: str = "toolshed") -> str:
    """Let one replica finish its calls and end; its place is not filled again. Returns at once,
    with the name by which ``calls_left`` knows it."""
    return str(_asked(address, namespace, "drain", family, index))


def calls_left(address: str, name: str, namespace: str = "toolshed") -> int | None:
    """How many calls a replica that is drained still works on; None when it is out."""
    seats = [each for each in status(address, namespace).seats if each.name == name]
    if not seats:
        return None
    health = seats[0].health
    return 0 if health is None else health.num_accepted


def stop(address: str, namespace: str = "toolshed") -> None:
    """End all replicas; their server ends by itself."""
    import ray

    _asked(address, namespace, "stop")
    ray.kill(ray.get_actor(NAME, namespace=namespace), no_restart=True)


def _asked(address: str, namespace: str, method: str, *arguments: object) -> Any:
    import ray
    from ray import exceptions

    join(address)
    try:
        control = ray.get_actor(NAME, namespace=namespace)
    except ValueError as error:
        raise ConfigError(
            f"nobody serves tools at {address}, namespace {namespace!r}; start them: "
            "toolshed serve CONFIG --address-file FILE"
        ) from error
    # Actors have their methods by name.
    asked = getattr(control, method).remote(*arguments)
    try:
        return ray.get(asked, timeout=_TIMEOUT_S)
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise error.cause from None
        raise
    except exceptions.RayError as error:
        text = f"{method}: the control actor does not answer ({type(error).__name__})"
        raise ToolFailure("control_lost", text) from error
