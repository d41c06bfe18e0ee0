from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft.batch import micro_batches
from sft.config import OptimConfig, ShardConfig
from sft.learner import Learner
from sft.model import load_model, save_checkpoint
from sft.optimisers import rate_factor
from sft.render import Renderer
from sft.sample import Span, TrainingSample
from tests.sft.limits import largest_file
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import Message, ToolImage


def picture(seed: int) -> ToolImage:
    rng = np.random.default_rng(seed)
    return make_image(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8))


def samples(renderer: Renderer) -> list[TrainingSample]:
    """Conversations of different lengths, with 0 to 2 pictures."""
    made = []
    for index, words in enumerate(
        ["a", "a longer question with more words", "b c", "d " * 30, "e"]
    ):
        images = tuple(picture(10 * index + i) for i in range(index % 3))
        marks = "<image>" * len(images)
        turns = [
            Message(role="user", text=marks + words, num_images=len(images)),
            Message(role="assistant", text="<answer>0.43</answer>" + "x" * index),
            Message(role="user", text="<tool_response>\nok\n</tool_response>"),
            Message(role="assistant", text="red cube"),
        ]
        rendering = renderer.render(turns)
        made.append(
            TrainingSample(
                token_ids=tuple(rendering.token_ids),
                spans=tuple(rendering.spans),
                images=images,
                advantage=(-1.0) ** index * (1 + index),
            )
        )
    return made


def learner(tiny: Path, *, max_tokens: int = 4096, **optim: Any) -> Learner:
    return Learner(
        load_model(tiny),
        Renderer.load(tiny),
        OptimConfig(**({"lr": 1e-3} | optim)),
        frozen="none",
        total_steps=10,
        max_tokens=max_tokens,
    )


def gradient(taught: Learner) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in taught.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("max_tokens", "overhead"), [(4096, 10**9), (4096, 0), (300, 64), (150, 64), (1, 64)]
)
def test_loss_and_gradient_do_not_depend_on_micro_batching_packing_or_padding(
    tiny: Path, max_tokens: int, overhead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, other = learner(tiny), learner(tiny, max_tokens=max_tokens)
    batch = samples(plain.renderer)
    first = plain.forward_backward(batch)
    # A large overhead packs and pads everything into one batch, none cuts by length.
    monkeypatch.setattr("sft.batch._OVERHEAD_PLACES", overhead)
    second = other.forward_backward(batch)
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    reference, got = gradient(plain), gradient(other)
    assert float((got - reference).norm() / reference.norm()) <= 1e-5


def test_packed_sequences_do_not_see_each_other(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sft.batch._OVERHEAD_PLACES", 10**9)
    taught = learner(tiny)
    batch = samples(taught.renderer)
    alone = [
        taught.logprobs(b)
        for sample in sorted(batch, key=lambda s: -len(_expanded(taught, s)))
        for b in micro_batches([sample], taught.renderer, max_tokens=4096)
    ]
    packed = micro_batches(batch, taught.renderer, max_tokens=4096)
    assert any(b.token_ids_BT.shape[0] < len(batch) for b in packed)
    together = sorted(torch.cat([taught.logprobs(b) for b in packed]).tolist())
    assert together == pytest.approx(sorted(torch.cat(alone).tolist()), abs=1e-5)


def _expanded(taught: Learner, sample: TrainingSample) -> np.ndarray[Any, Any]:
    return taught.renderer.expand(sample.token_ids, sample.images).token_ids


def test_log_probs_equal_those_of_transformers_own_forward(tiny: Path) -> None:
    taught = learner(tiny)
    sample = samples(taught.renderer)[2]
    batch = micro_batches([sample], taught.renderer, max_tokens=4096)[0]
    vision = [taught.renderer.vision(image) for image in sample.images]
    out = taught.model(
        input_ids=batch.token_ids_BT,
        mm_token_type_ids=(batch.token_ids_BT == taught.renderer.image_token).int(),
        pixel_values=torch.cat([torch.from_numpy(v.patches) for v in vision]),
        image_grid_thw=torch.tensor([v.grid for v in vision]),
    )
    logits = out.logits[0].float()
    logits[:, list(taught.renderer.banned_tokens)] = float("-inf")
    reference = torch.log_softmax(logits, -1)[batch.predict_N, batch.targets_N]
    assert float((taught.logprobs(batch) - reference).detach().abs().max()) <= 1e-5


def test_long_targets_in_chunks_equal_one_piece(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sft.logprobs

    taught = learner(tiny)
    whole = taught.forward_backward(samples(taught.renderer))
    expected = gradient(taught)
    taught.model.zero_grad()
    rows = 7 * taught.model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(sft.logprobs, "CHUNK", rows)
    chunked = taught.forward_backward(samples(taught.renderer))
    assert chunked["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert torch.allclose(gradient(taught), expected, atol=1e-6)


def test_a_conversation_without_a_trained_token_teaches_nothing(tiny: Path) -> None:
    taught, other = learner(tiny), learner(tiny, max_tokens=1)
    batch = samples(taught.renderer)
    mute = TrainingSample(token_ids=(30, 31, 32), spans=(Span(start=0, end=3, kind="prompt"),))
    first, second = taught.forward_backward(batch), other.forward_backward([*batch, mute])
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert torch.allclose(gradient(other), gradient(taught), atol=1e-5)


def test_save_and_load_continue_exactly(tiny: Path, tmp_path: Path) -> None:
    steady = learner(tiny, muon_lr=0.01, schedule="cosine", warmup_steps=2)
    batch = samples(steady.renderer)
    losses = []
    for step in range(4):
        losses.append(steady.forward_backward(batch)["loss"])
        steady.optim_step()
        if step == 1:
            steady.save_state(tmp_path / "state.pt")
    resumed = learner(tiny, muon_lr=0.01, schedule="cosine", warmup_steps=2)
    resumed.load_state(tmp_path / "state.pt")
    again = []
    for _ in range(2):
        again.append(resumed.forward_backward(batch)["loss"])
        resumed.optim_step()
    assert again == losses[2:]


def test_a_frozen_tower_sees_each_picture_once_and_gets_no_gradient(tiny: Path) -> None:
    taught = Learner(
        load_model(tiny), Renderer.load(tiny), OptimConfig(), frozen="vision", total_steps=1
    )
    taught.forward_backward(samples(taught.renderer))
    assert all(p.grad is None for p in taught.model.model.visual.parameters())
    assert len(taught._features) == len(
        {i.sha256 for s in samples(taught.renderer) for i in s.images}
    )


def test_the_projector_alone_learns_of_what_sees(tiny: Path) -> None:
    taught = Learner(
        load_model(tiny), Renderer.load(tiny), OptimConfig(), frozen="tower", total_steps=1
    )
    taught.forward_backward(samples(taught.renderer))
    visual = taught.model.model.visual
    moved = {name for name, p in visual.named_parameters() if p.grad is not None}
    assert moved == {f"merger.{name}" for name, _ in visual.merger.named_parameters()}
    assert taught.model.get_input_embeddings().weight.grad is not None


def test_few_bytes_of_features_cost_time_alone(tiny: Path) -> None:
    told = []
    for features_mb in (0, 2048):
        taught = Learner(
            load_model(tiny), Renderer.load(tiny), OptimConfig(), total_steps=2,
            shard=ShardConfig(features_mb=features_mb),
        )  # fmt: skip
        batch = samples(taught.renderer)
        told.append([taught.forward_backward(batch) | taught.optim_step() for _ in range(2)])
        assert len(taught._features) == (1 if features_mb == 0 else told[-1][0]["features_used"])
    kept = [[step.pop("features_kept") for step in run] for run in told]
    used = told[0][0]["features_used"]
    assert kept[0][0] == 0 and kept[0][1] < used and kept[1] == [0, used]
    for few, many in zip(*told, strict=True):
        assert few == pytest.approx(many, rel=1e-5)


def test_rates_warm_up_stay_and_fall() -> None:
    optim = OptimConfig(warmup_steps=4, schedule="cosine", flat=0.5, floor=0.1)
    rates = [rate_factor(optim, step, 20) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:11]) == {1.0}
    assert rates[20] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_gradient_that_is_no_number_stops_before_the_weights_move(tiny: Path) -> None:
    taught = learner(tiny)
    before = [parameter.detach().clone() for parameter in taught.model.parameters()]
    taught.forward_backward(samples(taught.renderer))
    next(p for p in taught.model.parameters() if p.grad is not None).grad[0] = float("nan")
    with pytest.raises(ConfigError, match="gradient of step 1 is nan"):
        taught.optim_step()
    after = list(taught.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_weights_that_a_disk_does_not_take_leave_the_old_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    model = load_model(tiny)
    save_checkpoint(model, tiny, tmp_path / "final")
    with largest_file(100_000), pytest.raises(OSError, match="too large") as told:
        save_checkpoint(model, tiny, tmp_path / "final")
    assert told.value.filename == str(tmp_path / "final")
    assert [each.name for each in tmp_path.iterdir()] == ["final"]
    load_model(tmp_path / "final")
