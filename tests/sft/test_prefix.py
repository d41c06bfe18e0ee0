"""Groups that share their prompt learn exactly what they would learn without sharing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.batch import PrefixGroup
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.prefix import prefix_batches
from sft.prefix_attention import group_attention, share_prefixes
from sft.reference import FrozenReference
from sft.render import Renderer
from sft.sample import TrainingSample
from tests.sft.groups import Shape, group
from toolshed.errors import ConfigError

SHAPES = (
    Shape(prompt=40, prompt_images=2, answers=((3,), (9, 4), (1, 1, 1))),
    Shape(prompt=7, answers=((12,), (2,))),
    Shape(prompt=25, prompt_images=1, answers=((30,),)),
)


def learner(tiny: Path, shared: bool, max_tokens: int = 4096, frozen: str = "none") -> Learner:
    return Learner(
        load_model(tiny),
        Renderer.load(tiny),
        OptimConfig(lr=1e-3),
        frozen=frozen,
        total_steps=10,
        max_tokens=max_tokens,
        shared_prefix=shared,
    )


@pytest.fixture(scope="module")
def pair(tiny: Path) -> tuple[Learner, Learner]:
    """One that shares prompts, and one that does not."""
    return learner(tiny, True), learner(tiny, False)


def taught(one: Learner, samples: Sequence[TrainingSample], max_tokens: int = 4096) -> Any:
    """(loss, gradient) of a step that is not taken."""
    one.max_tokens = max_tokens
    one.model.zero_grad()
    told = one.forward_backward(samples, denominator=10.0)
    return told["loss"], torch.cat(
        [p.grad.flatten() for p in one.model.parameters() if p.grad is not None]
    )


def differences(pair: tuple[Learner, Learner], samples: Any, max_tokens: int = 4096) -> Any:
    """Relative differences of loss and gradient."""
    (got, grad), (loss, expected) = taught(pair[0], samples, max_tokens), taught(pair[1], samples)
    assert float(expected.abs().max()) > 0
    return abs(got - loss) / abs(loss), float((grad - expected).abs().max() / expected.abs().max())


def shapes() -> st.SearchStrategy[list[Shape]]:
    turns = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
    shape = st.builds(
        Shape,
        prompt=st.integers(1, 40),
        prompt_images=st.integers(0, 2),
        answers=st.lists(turns, min_size=1, max_size=5).map(tuple),
    )
    return st.lists(shape, min_size=1, max_size=3)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(made=shapes(), max_tokens=st.sampled_from([4096, 120, 1]), seed=st.integers(0, 99))
def test_any_groups_give_the_same_loss_and_gradient(
    pair: tuple[Learner, Learner], made: list[Shape], max_tokens: int, seed: int
) -> None:
    samples = [s for i, shape in enumerate(made) for s in group(pair[0].renderer, shape, seed + i)]
    loss, grad = differences(pair, samples, max_tokens)
    assert loss <= 1e-5 and grad <= 1e-5


def test_dropped_siblings_and_any_order_change_nothing(pair: tuple[Learner, Learner]) -> None:
    """What an algorithm leaves out of a group, and siblings that come apart from each other."""
    families = [group(pair[0].renderer, shape, i) for i, shape in enumerate(SHAPES)]
    left = [families[0][2], families[1][1], families[2][0], families[0][0]]
    assert max(differences(pair, left)) <= 1e-5
    batches = pair[0].micro_batches(left)
    assert sorted(len(g.answers) for b in batches for g in b.groups) == [1, 1, 2]


def test_each_prompt_is_computed_once_and_nothing_is_padded(pair: tuple[Learner, Learner]) -> None:
    renderer = pair[0].renderer
    samples = [s for i, shape in enumerate(SHAPES) for s in group(renderer, shape, i)]
    (batch,) = prefix_batches(samples, renderer, max_tokens=4096)
    sizes = [len(renderer.expand(s.token_ids, s.images).token_ids) for s in samples]
    saved = sum(g.prompt * (len(g.answers) - 1) for g in batch.groups)
    assert batch.token_ids_BT.shape == (1, sum(sizes) - saved)
    assert sum(g.prompt + sum(g.answers) for g in batch.groups) == batch.token_ids_BT.shape[1]
    shared = [s.images[:n] for s, n in ((samples[0], 2), (samples[5], 1))]
    assert all([image.sha256 for image in batch.images].count(s.sha256) == 1
               for images in shared for s in images)  # fmt: skip


def test_a_group_that_does_not_fit_is_cut_between_its_answers(
    pair: tuple[Learner, Learner],
) -> None:
    samples = group(pair[0].renderer, Shape(prompt=50, answers=((10,),) * 8))
    batches = prefix_batches(samples, pair[0].renderer, max_tokens=85)
    assert [b.groups for b in batches] == [(PrefixGroup(prompt=50, answers=(10, 10, 10)),)] * 2 + [
        (PrefixGroup(prompt=50, answers=(10, 10)),)
    ]
    assert sum(len(b.targets_N) for b in batches) == 80


def test_prompts_that_differ_only_in_their_picture_are_not_shared(
    pair: tuple[Learner, Learner],
) -> None:
    shape = Shape(prompt=0, prompt_images=1, answers=((4,),))
    first, second = (group(pair[0].renderer, shape, seed)[0] for seed in (1, 2))
    assert first.token_ids[:3] == second.token_ids[:3]
    (batch,) = prefix_batches([first, second], pair[0].renderer, max_tokens=4096)
    assert len(batch.groups) == 2 and len(batch.images) == 2


def test_answers_see_the_prompt_and_themselves_alone(tiny: Path) -> None:
    """Each token's log-prob has no gradient to the places of siblings or of other groups."""
    torch.manual_seed(0)
    groups = (PrefixGroup(prompt=3, answers=(2, 4)), PrefixGroup(prompt=2, answers=(1,)))
    query, key, value = (torch.randn(1, heads, 12, 8) for heads in (4, 2, 2))
    value.requires_grad_()
    out = group_attention(query, key, value, groups)
    sees = [
        torch.autograd.grad(out[0, 0, t].sum(), value, retain_graph=True)[0][0, 0].abs().sum(-1)
        for t in range(12)
    ]
    expected = [
        *("100000000000", "110000000000", "111000000000"),  # the first prompt
        *("111100000000", "111110000000"),  # its answers
        *("111001000000", "111001100000", "111001110000", "111001111000"),
        *("000000000100", "000000000110"),  # the second prompt
        "000000000111",
    ]
    assert ["".join(str(int(x > 0)) for x in row) for row in sees] == expected


def test_a_frozen_tower_sees_each_picture_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = learner(tiny, True, max_tokens=60, frozen="vision")
    computed: list[str] = []
    inner = one._compute_features

    def counting(images: Any) -> Any:
        computed.extend(image.sha256 for image in images)
        return inner(images)

    monkeypatch.setattr(one, "_compute_features", counting)
    samples = group(one.renderer, SHAPES[0])
    assert len(one.micro_batches(samples)) > 1
    for _ in range(2):
        one.forward_backward(samples)
    assert sorted(computed) == sorted({image.sha256 for s in samples for image in s.images})


def test_a_reference_reads_shared_prompts_too(tiny: Path) -> None:
    one = learner(tiny, True)
    (batch,) = one.micro_batches(group(one.renderer, SHAPES[0]))
    assert torch.equal(FrozenReference(one)(batch), one.logprobs(batch).detach())


def test_training_without_groups_is_untouched_by_the_option(tiny: Path) -> None:
    """The implementation without groups is transformers' own, to the bit."""
    plain, other = learner(tiny, False), learner(tiny, False)
    share_prefixes(other.model)
    samples = group(plain.renderer, SHAPES[0])
    (loss, expected), (got, grad) = taught(plain, samples), taught(other, samples)
    assert got == loss and torch.equal(grad, expected)


def test_a_sliding_window_is_refused(tiny: Path) -> None:
    model: Any = load_model(tiny)
    model.model.language_model.config.layer_types[1] = "sliding_attention"
    with pytest.raises(ConfigError, match=r"sliding_attention; set learner\.shared_prefix=false"):
        share_prefixes(model)
