"""A policy in this process: continuous batching over a slotted cache, on a CPU or one GPU.

Each trajectory keeps its slot, and so its cache, until it is released; a finished or waiting one
holds up nobody. New tokens of a turn are fed through the decode batch while they are few, else
prefilled alone; which of both happens depends on the trajectory alone, so do its bits.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.policy.base import Prompt, Weights
from rl.policy.decoder import TILE, Decoder
from rl.types import Completion, SamplingParams
from sft.model import image_features
from sft.render import Renderer
from toolshed.errors import ConfigError
from toolshed.types import ToolImage

_FED_AT_MOST = 8
"""New tokens up to this many ride in the decode batch. A prefill costs as much as some 15 of them
in a full tile and 8 in one half empty."""
_GATHER_S = 0.008
"""How long a step waits for the next row while many rows are at their tools; see ``_gather``."""
_GATHER_AT_MOST_S = 0.1
_FULL_ENOUGH = 0.75
"""Share of the rows in flight that need not wait for others."""
_KEPT_PROMPTS = 256
_KEPT_PICTURES = 4096


@dataclass
class _Row:
    """What one slot is doing."""

    trajectory: str
    length: int = 0
    """Tokens in the cache."""
    num_compact: int = 0
    """Compact tokens of the trajectory that are in the cache or pending."""
    num_images: int = 0
    position: int = 0
    """Rotary position of the next token."""
    pending: list[int] = field(default_factory=list)
    """Tokens to feed before the next one is sampled; never empty while working."""
    sampling: SamplingParams | None = None
    rng: np.random.Generator | None = None
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    done: asyncio.Future[str] | None = None


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A prefilled prompt that siblings share."""

    cache: list[tuple[Tensor, Tensor]]
    logits: Tensor
    length: int
    position: int


class TransformersPolicy:
    """Samples from a Qwen2.5-VL model; ``num_slots`` trajectories are in flight at most."""

    def __init__(
        self, model: Any, renderer: Renderer, *, num_slots: int = 64, max_length: int = 512
    ) -> None:
        self.model = model
        self.renderer = renderer
        self.version = 0
        self.max_length = max_length
        self.decoder = Decoder(model, num_slots=num_slots, max_length=max_length)
        self.device = self.decoder.embed.device
        self._rows: dict[int, _Row] = {}
        self._slot_of: dict[str, int] = {}
        self._free = list(range(num_slots))
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._prefixes: OrderedDict[tuple[object, ...], _Prefix] = OrderedDict()
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._loop_task: asyncio.Task[None] | None = None
        self._has_arrived = False
        """Whether a row has begun a turn since the last step."""
        self._arrival: asyncio.Future[None] | None = None

    # ---- the Policy protocol --------------------------------------------------------------------

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        """Continue a trajectory; its earlier tokens are in the cache already."""
        row = await self._row(prompt)
        self._admit(row, prompt, sampling)
        # New weights may come while it is sampled; the oldest are named.
        version = self.version
        row.done = asyncio.get_running_loop().create_future()
        self._has_arrived = True
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        self._wake()
        finish = await row.done
        row.done = None
        ids = tuple(row.sampled)
        return Completion(
            text=self.renderer.decode(ids),
            token_ids=ids,
            logprobs=tuple(row.logprobs),
            finish="stop" if finish == "stop" else "length",
            version=version,
        )

    def release(self, trajectory: str) -> None:
        slot = self._slot_of.pop(trajectory, None)
        if slot is None:
            return
        del self._rows[slot]
        self._hand_on(slot)

    def _hand_on(self, slot: int) -> None:
        """A free slot to the first who waits for one, or back."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        heapq.heappush(self._free, slot)

    async def aclose(self) -> None:
        if self._loop_task is not None:
            self._loop_task.cancel()

    async def start(self) -> None:
        pass

    async def update_weights(self, weights: Weights, version: int) -> None:
        self.load(weights.model, version)

    async def lend_memory(self) -> None:
        pass

    @property
    def kv_tokens(self) -> int:
        return 0

    @property
    def dtype(self) -> str:
        return ""

    def figures(self) -> dict[str, float]:
        return {}

    def load(self, model: Any, version: int) -> None:
        """Take over a model's weights; kept prompts and features are forgotten."""
        self.decoder.load(model)
        self.model = model
        self.version = version
        self._prefixes.clear()
        if any(p.requires_grad for p in model.model.visual.parameters()):
            self._features.clear()

    # ---- admission ------------------------------------------------------------------------------

    async def _row(self, prompt: Prompt) -> _Row:
        slot = self._slot_of.get(prompt.trajectory)
        if slot is None:
            slot = await self._acquire()
            self._slot_of[prompt.trajectory] = slot
            self._rows[slot] = _Row(prompt.trajectory, rng=np.random.default_rng(prompt.seed))
        return self._rows[slot]

    async def _acquire(self) -> int:
        """The lowest free slot, which keeps the busy rows in few tiles."""
        if self._free:
            return heapq.heappop(self._free)
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._hand_on(waiter.result())
            raise

    def _admit(self, row: _Row, prompt: Prompt, sampling: SamplingParams) -> None:
        """Queue or prefill what is new, and set the row to sampling."""
        row.sampling, row.sampled, row.logprobs = sampling, [], []
        new = prompt.token_ids[row.num_compact :]
        images = prompt.images[row.num_images :]
        assert new, "a policy was asked to continue a prompt that ends where it stopped"
        expanded = self.renderer.expand(new, images)
        room = self.max_length - row.length - len(row.pending) - len(expanded.token_ids)
        if room < sampling.max_tokens:
            raise ConfigError(
                f"trajectory {prompt.trajectory} needs "
                f"{self.max_length - room + sampling.max_tokens} "
                f"places and max_length is {self.max_length}; raise it or shorten the prompt"
            )
        row.num_compact, row.num_images = len(prompt.token_ids), len(prompt.images)
        ids = row.pending + list(expanded.token_ids)
        if row.length and not images and len(ids) <= _FED_AT_MOST:
            row.pending = [int(token) for token in ids]
            return
        self._prefill(row, ids, expanded.positions + row.position + len(row.pending), images)

    def _prefill(
        self, row: _Row, ids: list[int], positions: Any, images: tuple[ToolImage, ...]
    ) -> None:
        slot = self._slot_of[row.trajectory]
        key = (tuple(ids), tuple(image.sha256 for image in images))
        prefix = self._prefixes.get(key) if row.length == 0 else None
        if prefix is not None:
            self._prefixes.move_to_end(key)
            self.decoder.fill_slot(slot, prefix.cache)
            row.length, row.position, logits = prefix.length, prefix.position, prefix.logits
        else:
            lead = np.arange(row.position, row.position + len(row.pending))
            places = np.concatenate([np.tile(lead, (3, 1)), positions], axis=1)
            embeds = self._embed(ids, images)
            at = torch.from_numpy(places).to(self.device)
            logits = self.decoder.prefill(slot, row.length, embeds, at)
            start, row.length = row.length, row.length + len(ids)
            row.position = int(places.max()) + 1
            if start == 0:
                cache = self.decoder.copy_slot(slot, row.length)
                self._prefixes[key] = _Prefix(cache, logits, row.length, row.position)
                if len(self._prefixes) > _KEPT_PROMPTS:
                    self._prefixes.popitem(last=False)
        row.pending = []
        self._sample([row], logits[None])

    def _embed(self, ids: list[int], images: tuple[ToolImage, ...]) -> Tensor:
        tokens = torch.tensor(ids, device=self.device)
        embeds = self.decoder.embed[tokens]
        if images:
            features = torch.cat([self._feature(image) for image in images])
            embeds[tokens == self.renderer.image_token] = features.to(embeds.dtype)
        return embeds

    @torch.no_grad()
    def _feature(self, image: ToolImage) -> Tensor:
        known = self._features.get(image.sha256)
        if known is None:
            vision = self.renderer.vision(image)
            patches = torch.from_numpy(vision.patches).to(self.device)
            grid = torch.tensor([vision.grid], device=self.device)
            known = image_features(self.model, patches, grid)
            self._features[image.sha256] = known
            if len(self._features) > _KEPT_PICTURES:
                self._features.popitem(last=False)
        return known

    # ---- decoding -------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.ensure_future(self._decode())
            self._loop_task.add_done_callback(self._pass_on)

    def _pass_on(self, task: asyncio.Task[None]) -> None:
        """A bug in the loop reaches everyone who waits for it."""
        error = None if task.cancelled() else task.exception()
        for row in self._rows.values():
            if error is not None and row.done is not None and not row.done.done():
                row.done.set_exception(error)

    async def _decode(self) -> None:
        """Step all working rows until none is left, letting other coroutines run in between."""
        while True:
            await self._gather()
            self._finish_rows()
            working = self._working()
            if not working:
                return
            if self._compact():
                working = self._working()
            self._step(working)
            self._finish_rows()
            await asyncio.sleep(0)

    async def _gather(self) -> None:
        """After an arrival, wait for more as long as they keep coming.

        A step costs the same for one row as for a tile, and replies come back in bursts: a step
        after each reply would cost several times the steps (docs/PERFORMANCE.md).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GATHER_AT_MOST_S
        while self._has_arrived and loop.time() < deadline:
            self._has_arrived = False
            if len(self._working()) < _FULL_ENOUGH * len(self._rows):
                self._arrival = loop.create_future()
                await asyncio.wait([self._arrival], timeout=_GATHER_S)
        self._has_arrived = False

    def _compact(self) -> bool:
        """Rows of the last tile move to free slots of the others where all find one; whether so.

        A step of a tile costs the same whatever it holds, and a row's bits are those of any slot.
        """
        last = max(self._rows) // TILE * TILE
        leaving = sorted(slot for slot in self._rows if slot >= last)
        if sum(slot < last for slot in self._free) < len(leaving):
            return False
        for slot in leaving:
            row, new = self._rows.pop(slot), heapq.heappop(self._free)
            self.decoder.fill_slot(new, self.decoder.copy_slot(slot, row.length))
            self._rows[new], self._slot_of[row.trajectory] = row, new
            heapq.heappush(self._free, slot)
        return True

    def _working(self) -> dict[int, _Row]:
        return {s: row for s, row in self._rows.items() if row.done and not row.done.done()}

    def _step(self, working: dict[int, _Row]) -> None:
        rows: list[_Row] = []
        logits: list[Tensor] = []
        for tile in sorted({slot // TILE for slot in working}):
            members = [working.get(tile * TILE + i) for i in range(TILE)]
            table = [
                (r.pending[0], r.length, r.position) if r else self._idle(tile * TILE + i)
                for i, r in enumerate(members)
            ]
            tokens, lengths, positions = torch.tensor(table, device=self.device).unbind(1)
            out = self.decoder.step(tile, tokens, lengths, positions)
            for i, row in enumerate(members):
                if row is None:
                    continue
                del row.pending[0]
                row.length += 1
                row.position += 1
                if not row.pending:
                    rows.append(row)
                    logits.append(out[i])
        if rows:
            self._sample(rows, torch.stack(logits))

    def _idle(self, slot: int) -> tuple[int, int, int]:
        """A place whose key and value nobody has written yet: a waiting row loses nothing."""
        row = self._rows.get(slot)
        return (0, min(row.length, self.decoder.max_length - 1), 0) if row else (0, 0, 0)

    def _sample(self, rows: list[_Row], logits: Tensor) -> None:
        """Pick each row's next token: its distribution inverted at its own random number."""
        temperatures = [row.sampling.temperature if row.sampling else 1.0 for row in rows]
        divisors = torch.tensor([t or 1.0 for t in temperatures], device=logits.device)
        logits = logits.float() / divisors[:, None]
        logits[:, list(self.renderer.banned_tokens)] = float("-inf")
        logprobs_RV = torch.log_softmax(logits, dim=-1).cpu().numpy()
        masses_RV = np.exp(logprobs_RV.astype(np.float64)).cumsum(axis=1)
        for row, temperature, logprob, mass in zip(
            rows, temperatures, logprobs_RV, masses_RV, strict=True
        ):
            if temperature == 0:
                token = int(logprob.argmax())
            else:
                assert row.rng is not None
                token = int(mass.searchsorted(row.rng.random() * mass[-1], side="right"))
            row.sampled.append(token)
            row.logprobs.append(float(logprob[token]))
            row.pending = [token]

    def _finish_rows(self) -> None:
        for row in self._rows.values():
            if row.done is None or row.done.done() or not row.sampled or row.sampling is None:
                continue
            stopped = row.sampled[-1] == self.renderer.end_of_turn
            if stopped or len(row.sampled) >= row.sampling.max_tokens:
                row.num_compact += len(row.sampled)
                row.done.set_result("stop" if stopped else "length")
