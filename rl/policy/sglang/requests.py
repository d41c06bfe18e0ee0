"""Every request that an engine is sent, each with its address: the one place where bodies are made.

An engine ignores unknown fields of a body without a word, so no other code writes one. Field names
are sglang's, 0.5.18 to 0.5.23; what is None is left out and takes the engine's default.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from toolshed.types import Json

Waits: TypeAlias = Literal["patience", "start", "for ever"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """A POST with a JSON body."""

    path: ClassVar[str]
    waits: ClassVar[Waits] = "patience"
    """How long an answer may take: ``patience_s``, or ``start_timeout_s`` where weights are moved,
    of a config."""

    def body(self) -> dict[str, Json]:
        """The JSON object that is sent."""
        return _object(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSampling:
    """The object ``sampling_params``; unknown fields of it are refused by the engine itself."""

    max_new_tokens: int
    temperature: float
    """0 is greedy; log-probs are then those at 1."""
    stop_token_ids: tuple[int, ...]
    logit_bias: dict[str, float]
    """By token id as text; added before the division by the temperature."""
    sampling_seed: int | None = None
    """Heeded by engines in deterministic mode alone."""
    skip_special_tokens: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate(EngineRequest):
    """One completion."""

    path: ClassVar[str] = "/generate"
    waits: ClassVar[Waits] = "for ever"
    rid: str
    input_ids: tuple[int, ...]
    """Compact: one placeholder per picture."""
    image_data: tuple[str, ...] | None
    """Paths or data URIs, in the order of the placeholders."""
    sampling_params: EngineSampling
    return_logprob: bool = True
    return_prompt_token_ids: bool | None = None
    lora_path: str | None = None
    """Name of the adapter to sample with, as it was loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Abort(EngineRequest):
    """End a request early; it answers with what it has."""

    path: ClassVar[str] = "/abort_request"
    rid: str | None = None
    abort_all: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause(EngineRequest):
    """Stop decoding; ``retract`` keeps running requests and computes their cache anew later."""

    path: ClassVar[str] = "/pause_generation"
    mode: Literal["abort", "retract"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue(EngineRequest):
    path: ClassVar[str] = "/continue_generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class BeginUpdate(EngineRequest):
    """Required around distributed updates from 0.5.21 on."""

    path: ClassVar[str] = "/begin_weight_update"


@dataclass(frozen=True, kw_only=True, slots=True)
class EndUpdate(EngineRequest):
    path: ClassVar[str] = "/end_weight_update"
    waits: ClassVar[Waits] = "start"


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinGroup(EngineRequest):
    """Answers once every member is there."""

    path: ClassVar[str] = "/init_weights_update_group"
    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    group_name: str
    backend: Literal["gloo", "nccl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveGroup(EngineRequest):
    path: ClassVar[str] = "/destroy_weights_update_group"
    group_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiveBucket(EngineRequest):
    """Tensors that are broadcast as one flat buffer of bytes by rank 0."""

    path: ClassVar[str] = "/update_weights_from_distributed"
    waits: ClassVar[Waits] = "start"
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    group_name: str
    flush_cache: bool
    weight_version: str | None
    load_format: Literal["flattened_bucket"] = "flattened_bucket"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiveHandles(EngineRequest):
    """Tensors whose memory this process shares; between BeginUpdate and EndUpdate."""

    path: ClassVar[str] = "/update_weights_from_tensor"
    waits: ClassVar[Waits] = "start"
    serialized_named_tensors: tuple[str, ...]
    """For each rank of tensor parallelism: pairs of name and handle, pickled, in base 64."""
    flush_cache: bool
    weight_version: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFolder(EngineRequest):
    path: ClassVar[str] = "/update_weights_from_disk"
    waits: ClassVar[Waits] = "start"
    model_path: str
    weight_version: str
    flush_cache: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadAdapter(EngineRequest):
    """A folder as PEFT writes it; a name is taken until it is unloaded."""

    path: ClassVar[str] = "/load_lora_adapter"
    waits: ClassVar[Waits] = "start"
    lora_name: str
    lora_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UnloadAdapter(EngineRequest):
    """Answers once no request uses it any more."""

    path: ClassVar[str] = "/unload_lora_adapter"
    waits: ClassVar[Waits] = "start"
    lora_name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseMemory(EngineRequest):
    """Nothing may run; what was decoding has to be retracted before."""

    path: ClassVar[str] = "/release_memory_occupation"
    waits: ClassVar[Waits] = "start"
    tags: tuple[Literal["kv_cache", "weights"], ...] = ("kv_cache", "weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeMemory(EngineRequest):
    path: ClassVar[str] = "/resume_memory_occupation"
    waits: ClassVar[Waits] = "start"
    tags: tuple[Literal["kv_cache", "weights"], ...] = ("kv_cache", "weights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checksums(EngineRequest):
    """One hash per tensor of the engine's model."""

    path: ClassVar[str] = "/weights_checker"
    waits: ClassVar[Waits] = "start"
    action: Literal["checksum"] = "checksum"


def _object(carrier: object) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for field in dataclasses.fields(carrier):  # type: ignore[arg-type]
        value = getattr(carrier, field.name)
        if value is not None:
            found[field.name] = _object(value) if dataclasses.is_dataclass(value) else _plain(value)
    return found


def _plain(value: object) -> Json:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    assert isinstance(value, str | int | float | bool), type(value)
    return value
