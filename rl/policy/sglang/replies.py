"""What an engine answered, read strictly: whatever does not fit together is a machine failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rl.policy.base import PolicyFailure
from toolshed.types import Json

End: TypeAlias = Literal["stop", "length", "abort"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A completion, or the part of one that an engine made before it was interrupted."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """One per token, at the sampling temperature."""
    versions: tuple[int, ...]
    """Weight version that sampled each token."""
    end: End
    prompt_tokens: int
    """Of the expanded prompt."""
    cached_tokens: int
    prompt_ids: tuple[int, ...] | None
    """Expanded, as the engine used them; None where they were not asked for."""


def read_piece(reply: Json, *, sent: int, adapter: int | None = None) -> Piece:
    """The answer to ``Generate``; PolicyFailure where ids, log-probs and versions disagree.

    sent: version of the engine's weights when the request was sent.
    adapter: that of the adapter which the request named, as engines tell that of its base alone.
    """
    try:
        return _read(reply, sent, adapter)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise PolicyFailure(
            "engine_reply", f"the engine's answer cannot be read: {type(error).__name__}: {error}"
        ) from error


def _read(reply: Any, sent: int, adapter: int | None) -> Piece:
    meta = reply["meta_info"]
    ids = tuple(int(token) for token in reply["output_ids"])
    pairs = meta["output_token_logprobs"] or []
    if [int(pair[1]) for pair in pairs] != list(ids):
        raise PolicyFailure(
            "engine_logprobs", f"{len(ids)} sampled ids and {len(pairs)} log-probs of others"
        )
    asked = reply.get("prompt_token_ids")
    return Piece(
        token_ids=ids,
        logprobs=tuple(float(pair[0]) for pair in pairs),
        versions=_versions(meta, len(ids), sent) if adapter is None else (adapter,) * len(ids),
        end=_end(meta["finish_reason"]),
        prompt_tokens=int(meta["prompt_tokens"]),
        cached_tokens=int(meta["cached_tokens"]),
        prompt_ids=None if asked is None else tuple(int(token) for token in asked),
    )


def _end(reason: Any) -> End:
    kind = reason["type"]
    if kind not in ("stop", "length", "abort"):
        raise ValueError(f"finish reason {kind!r}")
    # An abort with a status is an error that the engine met, not an interruption by us.
    if kind == "abort" and int(reason.get("status_code") or 200) >= 400:
        raise PolicyFailure("engine_error", str(reason.get("message"))[:300])
    found: End = kind
    return found


def _versions(meta: Any, num: int, sent: int) -> tuple[int, ...]:
    spans = meta.get("weight_versions")
    if spans is None:
        # Before 0.5.20 there is one for the whole request, that of its end. Where the weights
        # changed meanwhile, tokens may count as older than they are, never as newer.
        return (min(sent, int(meta["weight_version"])),) * num
    versions: list[int] = []
    for span in spans:
        if int(span["start"]) != len(versions):
            raise PolicyFailure("engine_versions", f"spans with a gap or an overlap: {spans}")
        versions += [int(span["version"])] * (int(span["end"]) - int(span["start"]))
    if len(versions) != num:
        raise PolicyFailure("engine_versions", f"spans of {len(versions)} of {num} tokens")
    return tuple(versions)
