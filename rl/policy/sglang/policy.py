"""A policy behind sglang servers: token ids in, sampled ids with log-probs and versions out.

Compact ids and references to pictures are sent. What an engine had sampled when it was interrupted
is kept and continued; what a lost engine was doing is asked again. Whatever of an answer does not
fit together is a PolicyFailure, counted and never scored.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl.policy.base import PolicyFailure, Prompt, Weights
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.fleet import Adapter, Checkpoint, Fleet
from rl.policy.sglang.memory import Memory
from rl.policy.sglang.pictures import PictureStore
from rl.policy.sglang.replies import Piece, read_piece
from rl.policy.sglang.requests import Abort, EngineRequest, EngineSampling, Generate
from rl.policy.sglang.server import EngineLost, Server
from rl.policy.sglang.sync import sync_of
from rl.types import Completion, SamplingParams
from sft.render import IMAGE_MARK, Renderer
from toolshed.errors import ToolshedError
from toolshed.images import make_image
from toolshed.types import Message

log = logging.getLogger(__name__)
BANNED_BIAS = -1e9
"""Takes a token out of the softmax in every precision, and is finite as JSON wants it."""
_SCRATCH = "spacetools-engine-"
_FIRST = "first"
"""Name of what engines are asked at every start; its picture is never released."""
_IDLE_ROUNDS = 20
"""Interruptions in a row that brought no token."""


@dataclass
class _Turn:
    """A completion under way."""

    prompt: Prompt
    sampling: SamplingParams
    pictures: tuple[str, ...]
    num_expanded: int
    """Tokens of the prompt with every placeholder repeated."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    num_asked: int = 0

    @property
    def left(self) -> int:
        return self.sampling.max_tokens - len(self.token_ids)


class SglangPolicy:
    """Samples from the checkpoint that the engines hold; as many at a time as are asked."""

    def __init__(
        self, config: EngineConfig, renderer: Renderer, checkpoint: Path, *, version: int = 0
    ) -> None:
        self.config, self.renderer = config, renderer
        self._scratch = None if config.logs else Path(tempfile.mkdtemp(prefix=_SCRATCH))
        self.folder = self._scratch or Path(config.logs)
        """Of the engines' logs, and of pictures and weights on their way."""
        self.pictures = PictureStore(
            renderer, self.folder / "sent_pictures" if config.pictures == "file" else None
        )
        self.counts: Counter[str] = Counter()
        self._bias = {str(token): BANNED_BIAS for token in renderer.banned_tokens}
        self._aborts: set[asyncio.Task[None]] = set()
        newest = Checkpoint(folder=checkpoint, version=version)
        self.fleet = Fleet(config, newest, self.folder, self._first())
        self.sync = sync_of(self.fleet, self.folder)
        self.fleet.catch_up = self.sync.catch_up
        self._memory = Memory(self.fleet)
        self._told: Counter[str] = Counter()
        """Counters as they were when figures were last read."""
        self._sync_s = 0.0

    @property
    def version(self) -> int:
        """Of the newest weights; each token keeps the version that sampled it."""
        return self.fleet.version

    async def start(self) -> None:
        """Start the engines: minutes. ConfigError where they cannot be had."""
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self.aclose)
            try:
                await self.fleet.start()
            except EngineLost as error:
                raise PolicyFailure("engine_lost", str(error)) from error
            undo.pop_all()

    # ---- the Policy protocol --------------------------------------------------------------------

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        """Continue a trajectory; its earlier tokens are in its engine's cache already."""
        turn = _Turn(
            prompt=prompt,
            sampling=sampling,
            pictures=tuple(
                self.pictures.reference(image, prompt.trajectory) for image in prompt.images
            ),
            num_expanded=len(self.renderer.expand(prompt.token_ids, prompt.images).token_ids),
        )
        try:
            return await self._play(turn)
        except PolicyFailure as failure:
            self.counts[f"failed_{failure.reason}"] += 1
            raise

    def release(self, trajectory: str) -> None:
        self.fleet.release(trajectory)
        self.pictures.release(trajectory)

    async def aclose(self) -> None:
        """End the engines and forget the pictures."""
        await asyncio.gather(*self._aborts, return_exceptions=True)
        await self.sync.aclose()
        await self.fleet.stop()
        self.pictures.clear()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # ---- the LearningPolicy protocol ------------------------------------------------------------

    async def update_weights(self, weights: Weights, version: int) -> None:
        """Give all engines the weights; where none took them, again as they come back.

        PolicyFailure after ``retries`` repetitions, or where all engines were given up.
        """
        begun = time.monotonic()
        await self._memory.take_back()
        for left in reversed(range(self.config.retries + 1)):
            await self.fleet.any_usable()
            try:
                await self.sync.update(weights, version)
                break
            except PolicyFailure as failure:
                if not left:
                    raise
                log.warning("weights of version %d are sent again: %s", version, failure)
        self._sync_s = time.monotonic() - begun

    async def lend_memory(self) -> None:
        """Engines give theirs to the learner, where both are on one GPU."""
        if self.config.colocated:
            await self._memory.lend()

    @property
    def kv_tokens(self) -> int:
        """Places of all engines' caches together; 0 where they do not tell."""
        return self.fleet.kv_tokens

    @property
    def dtype(self) -> str:
        return self.config.dtype

    def figures(self) -> dict[str, float]:
        """Of the work since they were last read; restarts and pictures are those of the run.

        ``engine_cached_share`` is the prefix cache's, ``engine_sync_*`` the last update's.
        """
        new = {name: count - self._told[name] for name, count in sorted(self.counts.items())}
        self._told = Counter(self.counts)
        prompt_tokens = new.get("prompt_tokens", 0)
        return {f"engine_{name}": float(count) for name, count in new.items()} | {
            "engine_cached_share": new.get("cached_tokens", 0) / max(1, prompt_tokens),
            "engine_restarts": float(self.fleet.num_restarts),
            "engine_usable": float(len(self.fleet.usable)),
            "engine_pictures": float(self.pictures.num_written),
            "engine_picture_bytes": float(self.pictures.num_bytes),
            "engine_sync_s": self._sync_s,
            "engine_sync_bytes": float(self.sync.num_bytes),
        }

    # ---- one completion -------------------------------------------------------------------------

    async def _play(self, turn: _Turn) -> Completion:
        lost = idle = 0
        while True:
            question = turn.prompt.question
            family = f"{question.source}/{question.id}"
            server = await self.fleet.server_for(turn.prompt.trajectory, family)
            adapter, held = self.fleet.adapter, server.version
            request = self._request(turn, adapter)
            try:
                reply = await self._ask(server, request)
                piece = read_piece(reply, sent=held, adapter=adapter.version if adapter else None)
            except EngineLost as error:
                await self.fleet.doubt(server, str(error))
                lost += 1
                self.counts["resubmitted"] += 1
                if lost > self.config.retries:
                    raise PolicyFailure("engine_lost", str(error)) from error
                continue
            self._check(turn, request, piece)
            self._take(turn, piece)
            stopped = bool(piece.token_ids) and piece.token_ids[-1] == self.renderer.end_of_turn
            if stopped or turn.left <= 0:
                return self._completion(turn, stopped)
            # Interrupted, or stopped at a token that ends no turn: it goes on from there.
            self.counts["continued"] += 1
            idle = 0 if piece.token_ids else idle + 1
            if idle > _IDLE_ROUNDS:
                raise PolicyFailure("engine_idle", f"{server} was interrupted {idle} times")

    async def _ask(self, server: Server, request: Generate) -> Any:
        try:
            return await server.post(request)
        except asyncio.CancelledError:
            # Nobody waits for it any more; else it would go on to its last token.
            task = asyncio.ensure_future(_forget(server, Abort(rid=request.rid)))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)
            raise

    def _first(self) -> Generate:
        """One token after a grey picture."""
        grey = make_image(np.full((56, 56, 3), 128, dtype=np.uint8))
        message = Message(role="user", text=IMAGE_MARK, num_images=1)
        return Generate(
            rid=_FIRST,
            input_ids=self.renderer.prompt([message]),
            image_data=(self.pictures.reference(grey, _FIRST),),
            sampling_params=EngineSampling(
                max_new_tokens=1, temperature=0.0, stop_token_ids=(), logit_bias=self._bias
            ),
        )

    def _request(self, turn: _Turn, adapter: Adapter | None) -> Generate:
        prompt, sampling = turn.prompt, turn.sampling
        turn.num_asked += 1
        name = f"{prompt.trajectory}/{prompt.turn}/{turn.num_asked}"
        # A turn's seed is its own; so is that of the rest of one that was interrupted.
        digest = hashlib.sha256(f"{prompt.seed}/{name}/{len(turn.token_ids)}".encode()).digest()
        is_checked = digest[0] < 256 * self.config.checked_prompts
        return Generate(
            rid=f"{name}/{digest[:4].hex()}",
            input_ids=(*prompt.token_ids, *turn.token_ids),
            image_data=turn.pictures or None,
            sampling_params=EngineSampling(
                max_new_tokens=turn.left,
                temperature=sampling.temperature,
                stop_token_ids=(self.renderer.end_of_turn,),
                logit_bias=self._bias,
                sampling_seed=int.from_bytes(digest[:4]) >> 1
                if self.config.deterministic
                else None,
            ),
            return_prompt_token_ids=is_checked or None,
            lora_path=adapter.name if adapter else None,
        )

    def _check(self, turn: _Turn, request: Generate, piece: Piece) -> None:
        """PolicyFailure where the engine read another prompt, or sampled what it must not."""
        expected = turn.num_expanded + len(turn.token_ids)
        if piece.prompt_tokens != expected:
            raise PolicyFailure(
                "engine_prompt",
                f"the engine's prompt has {piece.prompt_tokens} tokens, not {expected}",
            )
        if piece.prompt_ids is not None:
            ours = self.renderer.expand(request.input_ids, turn.prompt.images).token_ids
            if tuple(int(token) for token in ours) != piece.prompt_ids:
                raise PolicyFailure("engine_prompt", "the engine's prompt has other ids than ours")
            self.counts["checked_prompts"] += 1
        if set(piece.token_ids) & set(self.renderer.banned_tokens):
            raise PolicyFailure("engine_banned", "the engine sampled a token of pictures")

    def _take(self, turn: _Turn, piece: Piece) -> None:
        turn.token_ids += piece.token_ids
        turn.logprobs += piece.logprobs
        turn.versions += piece.versions
        self.counts["requests"] += 1
        self.counts["prompt_tokens"] += piece.prompt_tokens
        self.counts["cached_tokens"] += piece.cached_tokens
        self.counts["sampled_tokens"] += len(piece.token_ids)

    def _completion(self, turn: _Turn, stopped: bool) -> Completion:
        ids = tuple(turn.token_ids)
        return Completion(
            text=self.renderer.decode(ids),
            token_ids=ids,
            logprobs=tuple(turn.logprobs),
            finish="stop" if stopped else "length",
            version=min(turn.versions),
            versions=tuple(turn.versions),
        )


async def _forget(server: Server, request: EngineRequest) -> None:
    try:
        await server.post(request)
    except (EngineLost, ToolshedError):
        # It is gone, and the request with it.
        return
