"""How engines are started and asked: the keys of ``engine`` in a config."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sft.config import LoraConfig, check_choice, check_not_negative, check_positive
from toolshed.errors import ConfigError

SYNCS = ("folder", "broadcast", "ipc", "adapters")
MARGIN = 8
"""Places of a sequence that an engine keeps for itself: 5 to 7 in the known versions."""


@dataclass
class EngineConfig:
    """Everything that the servers of a run depend on."""

    environment: str = "sglang"
    """Name of an environment (``bash setup_envs.sh sglang``) or path of an interpreter."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    servers: int = 1
    gpus: list[int] = field(default_factory=list)
    """Devices of all servers together, ``tensor_parallel`` each; the first ones if empty."""
    tensor_parallel: int = 1
    dtype: str = "float32"
    memory_share: float = 0.1
    """Share of the device's memory for weights and cache together."""
    max_total_tokens: int = 0
    """Places of the cache; 0 takes what fits into the memory."""
    context_length: int = 0
    """Most tokens of a sequence; 0 takes the model's own. ``rl.train`` and ``eval.run`` set it by
    ``max_length``."""
    max_running: int = 0
    """Completions that one server decodes at a time; 0 leaves it to the engine. ``rl.train`` and
    ``eval.run`` set it to ``width``."""
    sync: str = ""
    """How weights get there: ``folder``, ``broadcast``, ``ipc`` or ``adapters``; empty for
    ``folder`` on a CPU, and on GPUs for ``adapters`` where they are trained, ``ipc`` with
    ``colocated``, else ``broadcast``."""
    colocated: bool = False
    """The one engine is on the learner's own GPU, and gives its memory away while that trains."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters that engines make room for; ``rl.train`` sets it to ``learner.lora``."""
    trains_vision: bool = False
    """Whether updates hold the tower: picture features are then not kept between requests."""
    deterministic: bool = False
    """Samples follow the seeds, whatever else runs; slower, and on a GPU alone."""
    pictures: str = "file"
    """``file``: servers read pictures from this machine's disk; ``inline``: they travel along."""
    checked_prompts: float = 0.05
    """Share of requests whose prompt ids, as the engine used them, are compared with ours."""
    logs: str = ""
    """Folder of the servers' logs, and of the weights that pass through ``sync=folder``; one of the
    system's for temporary files if empty, ``engine`` in its own folder with ``rl.train``."""
    start_timeout_s: float = 600.0
    health_every_s: float = 10.0
    patience_s: float = 60.0
    """A server that says nothing for so long is killed and started again."""
    restarts: int = 3
    """How often a server is started again within an hour before it is given up."""
    retries: int = 3
    """How often one completion is asked again after its server was lost."""

    def __post_init__(self) -> None:
        check_positive(self, "servers", "tensor_parallel", "start_timeout_s", "patience_s")
        check_positive(self, "health_every_s", "memory_share")
        check_not_negative(self, "max_total_tokens", "context_length", "max_running")
        check_not_negative(self, "restarts", "retries")
        check_choice(
            self,
            device=("cpu", "cuda"),
            dtype=("float32", "bfloat16", "float16"),
            pictures=("file", "inline"),
            sync=("", *SYNCS),
        )
        if not 0 <= self.checked_prompts <= 1:
            raise ConfigError(f"engine.checked_prompts={self.checked_prompts}: a share, 0 to 1")
        wanted = self.servers * self.tensor_parallel
        if self.gpus and len(self.gpus) != wanted:
            raise ConfigError(
                f"engine.gpus names {len(self.gpus)} devices, and {self.servers} servers of "
                f"{self.tensor_parallel} need {wanted}"
            )
        if self.device == "cpu" and (self.deterministic or self.tensor_parallel > 1):
            raise ConfigError(
                "engine.deterministic and engine.tensor_parallel are for device=cuda alone"
            )
        if self.colocated and (self.device == "cpu" or wanted > 1):
            raise ConfigError(
                f"engine.colocated=true is for one engine on one GPU, and engine.device="
                f"{self.device} with {wanted} devices; give engine.device=cuda engine.servers=1 "
                "engine.tensor_parallel=1, or leave engine.colocated out"
            )
        if self.sync == "adapters" and self.device == "cpu":
            raise ConfigError(
                "engine.sync=adapters needs memory that is pinned for a GPU, and "
                "engine.device=cpu; give engine.sync=folder, which sends them merged"
            )
        if self.sync == "ipc" and not self.colocated:
            raise ConfigError(
                "engine.sync=ipc hands over memory of the learner's own GPU; give "
                "engine.colocated=true, or leave engine.sync out"
            )

    @property
    def way(self) -> str:
        """How weights get to the engines: one of ``SYNCS``."""
        if self.sync or self.device == "cpu":
            return self.sync or "folder"
        if self.lora.rank:
            return "adapters"
        return "ipc" if self.colocated else "broadcast"


def with_limits(
    engine: EngineConfig, *, width: int, max_length: int, lora: LoraConfig | None = None
) -> EngineConfig:
    """The limits of a run, where the engine has none of its own, and its adapters.

    All that is in flight fits into each server, as others may be lost.
    """
    return replace(
        engine,
        max_running=engine.max_running or width,
        context_length=engine.context_length or max_length + MARGIN,
        lora=lora or engine.lora,
    )
