"""What the control actor keeps and tells: what is to run, and which replicas there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from toolshed.serving.replica import FamilySettings, Health

State: TypeAlias = Literal["starting", "ready", "suspect", "draining", "down", "dead"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSpec:
    """Replicas that are to run: all families of one process word."""

    key: str
    """The process word."""
    families: tuple[FamilySettings, ...]
    slots: int
    replicas: int
    cpus: float
    gpus: float
    start_timeout_s: float
    run_timeout_s: float
    """A replica that works on one call for longer is hung."""
    restarts: int
    """How often one place is filled again within ten minutes."""
    runtime_env: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> str:
        return ", ".join(each.spec.name for each in self.families)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeatReport:
    """One place for a replica, and how it is filled."""

    group: str
    index: int
    name: str
    """Of the actor that fills it now."""
    state: State
    since_s: float
    """Seconds in this state."""
    num_restarts: int
    reason: str = ""
    """Why it is not ready, or was lost before this start."""
    user_error: bool = False
    """Whether the reason is the user's to mend."""
    actor: Any = None
    """Handle, where it may be called."""
    health: Health | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """All places, at one version."""

    version: int
    seats: tuple[SeatReport, ...]

    def of_group(self, key: str) -> list[SeatReport]:
        return [each for each in self.seats if each.group == key]
