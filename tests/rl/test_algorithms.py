"""Every algorithm against figures worked out by hand: advantages, losses, gradients, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rl.algorithms.advantages import ADVANTAGES, overlong_penalty
from rl.algorithms.algorithm import Advantage, Algorithm, KlEstimator
from rl.algorithms.kl import ESTIMATORS
from rl.algorithms.losses import PolicyLoss
from rl.algorithms.samples import is_informative, to_samples
from rl.algorithms.table import ALGORITHMS, Overrides, algorithm_named
from rl.config import RLConfig
from rl.types import Question, Reward, StopReason, Trajectory
from sft.batch import Batch
from sft.config import load_config
from sft.sample import Span
from toolshed.errors import ConfigError

OLD = -1.0
MAX_TOKENS = 10


def batch(old: list[float], advantages: list[float], lengths: list[int]) -> Batch:
    size = len(old)
    return Batch(
        token_ids_BT=torch.zeros((1, size + 1), dtype=torch.long),
        positions_4BT=torch.zeros((4, 1, size + 1), dtype=torch.long),
        images=(),
        predict_N=torch.arange(size),
        targets_N=torch.zeros(size, dtype=torch.long),
        advantages_N=torch.tensor(advantages, dtype=torch.float64),
        logprobs_N=torch.tensor(old, dtype=torch.float64),
        sequence_N=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        length_S=torch.tensor(lengths),
    )


def trajectory(value: float, num_tokens: int = 1) -> Trajectory:
    return Trajectory(
        question=Question(id="q", source="s", kind="number", messages=(), images=(), target=1.0),
        sample_index=0,
        seed=0,
        turns=(),
        messages=(),
        stop_reason=StopReason.ANSWERED,
        token_ids=(1, *[5] * num_tokens),
        spans=(
            Span(start=0, end=1, kind="prompt"),
            Span(start=1, end=1 + num_tokens, kind="sampled"),
        ),
        logprobs=(OLD,) * num_tokens,
        reward=Reward(value=value, accuracy=value, well_formed=True, answer=""),
    )


# ---- advantages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "mixed", "alike"),
    [
        ("group_std", [1, -1, -1, 1], 0.0),
        ("group_mean", [0.5, -0.5, -0.5, 0.5], 0.0),
        # 1 - (0 + 0 + 1) / 3 and 0 - (1 + 0 + 1) / 3.
        ("leave_one_out", [2 / 3, -2 / 3, -2 / 3, 2 / 3], 0.0),
        # Mean 6/8; standard deviation sqrt(3/16).
        ("batch_std", [1 / 3**0.5, -(3**0.5), -(3**0.5), 1 / 3**0.5], 1 / 3**0.5),
        # Four halves and four zeros: standard deviation sqrt(1/8).
        ("group_then_batch", [2**0.5, -(2**0.5), -(2**0.5), 2**0.5], 0.0),
    ],
)
def test_advantages_by_hand(rule: Advantage, mixed: list[float], alike: float) -> None:
    got = ADVANTAGES[rule]([np.array([1.0, 0, 0, 1]), np.ones(4), np.zeros(0)])
    assert got[0].tolist() == pytest.approx(mixed)
    assert got[1].tolist() == pytest.approx([alike] * 4, abs=1e-12)
    assert got[2].tolist() == []


def test_a_batch_without_any_spread_has_no_advantages() -> None:
    for rule in ADVANTAGES.values():
        assert not any(np.any(values) for values in rule([np.ones(3), np.ones(2)]))


def test_the_penalty_for_length_by_hand() -> None:
    lengths = [0, 80, 85, 90, 100, 150]
    got = [overlong_penalty(each, 100, 0.2) for each in lengths]
    assert got == pytest.approx([0, 0, -0.25, -0.5, -1, -1])
    assert overlong_penalty(1000, 100, 0.0) == 0.0


def test_length_trains_and_is_not_reported() -> None:
    group = [trajectory(1.0, 8), trajectory(1.0, 9), trajectory(1.0, 10)]
    assert not is_informative(group, ALGORITHMS["dapo_static"], MAX_TOKENS)
    assert is_informative(group, ALGORITHMS["dapo"], MAX_TOKENS)
    made = to_samples([group], ALGORITHMS["dapo"], max_tokens=MAX_TOKENS)
    # Penalties 0, -1/2, -1.
    assert [s.advantage for s in made.samples] == pytest.approx([1.5**0.5, 0, -(1.5**0.5)])
    assert [t.reward.value for t in group if t.reward] == [1.0, 1.0, 1.0]


# ---- losses -------------------------------------------------------------------------------------

RATIOS = [1.1, 1.1, 0.9, 1.5]
"""Of one token of a good answer (A = 2), then three tokens of a bad one (A = -1)."""
_S = (1.1 * 0.9 * 1.5) ** (1 / 3)
_L = [OLD + math.log(ratio) for ratio in RATIOS]
_SURROGATE = [-2.2, 1.1, 0.9, 1.5]

BY_HAND: dict[str, tuple[float, list[float]]] = {
    "dapo_static": (1.3 / 4, [g / 4 for g in _SURROGATE]),
    "dapo": (1.3 / 4, [g / 4 for g in _SURROGATE]),
    "grpo": ((-2.2 + 3.5 / 3) / 2, [-1.1, 1.1 / 6, 0.9 / 6, 1.5 / 6]),
    "dr_grpo": (1.3 / 10 / 2, [g / 20 for g in _SURROGATE]),
    # The good answer's ratio is above 1.0004; the bad one's is too, and is not clipped.
    "gspo": ((-2 * 1.0004 + _S) / 2, [0.0, _S / 6, _S / 6, _S / 6]),
    "gspo_token": ((-2 * 1.0004 + _S) / 2, [0.0, _S / 6, _S / 6, _S / 6]),
    "cispo": (
        sum(g * log for g, log in zip(_SURROGATE, _L, strict=True)) / 4,
        [g / 4 for g in _SURROGATE],
    ),
    "rloo": ((-2 * _L[0] + sum(_L[1:])) / 2, [-1.0, 0.5, 0.5, 0.5]),
    "reinforce_pp": (1.3 / 4, [g / 4 for g in _SURROGATE]),
    "reinforce_pp_baseline": (1.3 / 4, [g / 4 for g in _SURROGATE]),
}


def evaluate(
    loss: PolicyLoss, logprobs: list[float], micro: Batch
) -> tuple[float, list[float], dict[str, float]]:
    logprobs_N = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    terms = loss(logprobs_N, micro)
    terms.loss_N.sum().backward()
    assert logprobs_N.grad is not None
    told = {name: float(value) for name, value in (terms.sums | terms.maxima).items()}
    return float(terms.loss_N.sum().detach()), logprobs_N.grad.tolist(), told


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loss_and_gradient_by_hand(name: str) -> None:
    loss = PolicyLoss(algorithm=ALGORITHMS[name], max_tokens=MAX_TOKENS)
    micro = batch([OLD] * 4, [2.0, -1.0, -1.0, -1.0], [1, 3])
    total, gradient, _ = evaluate(loss, _L, micro)
    shares = {"token_mean": 4, "sequence_mean": 2, "sequence_sum": 2, "constant": 2}
    denominator = shares[ALGORITHMS[name].aggregation]
    expected, slopes = BY_HAND[name]
    assert total / denominator == pytest.approx(expected)
    assert [slope / denominator for slope in gradient] == pytest.approx(slopes)


def test_cispo_keeps_the_gradient_of_a_token_whose_weight_is_clipped() -> None:
    loss = PolicyLoss(algorithm=ALGORITHMS["cispo"], max_tokens=MAX_TOKENS)
    log = OLD + math.log(6)
    total, gradient, told = evaluate(loss, [log], batch([OLD], [1.0], [1]))
    assert total == pytest.approx(-5 * log) and gradient == pytest.approx([-5.0])
    assert told["clip_share"] == 1.0


def test_gspo_token_takes_an_advantage_for_each_token() -> None:
    rule = replace(ALGORITHMS["gspo_token"], clip_low=0.5, clip_high=0.5)
    loss = PolicyLoss(algorithm=rule, max_tokens=MAX_TOKENS)
    micro = batch([OLD] * 2, [1.0, -1.0], [2])
    _, gradient, _ = evaluate(loss, [OLD + math.log(1.21), OLD], micro)
    assert gradient == pytest.approx([-1.1 / 2, 1.1 / 2])


def test_the_dual_clip_bounds_negative_advantages() -> None:
    rule = algorithm_named("grpo", Overrides(dual_clip=3.0))
    loss = PolicyLoss(algorithm=rule, max_tokens=MAX_TOKENS)
    logs = [OLD + math.log(5), OLD + math.log(5), OLD + math.log(2)]
    micro = batch([OLD] * 3, [-1.0, 1.0, -1.0], [1, 1, 1])
    total, gradient, _ = evaluate(loss, logs, micro)
    assert total == pytest.approx(3 - 1.2 + 2)
    assert gradient == pytest.approx([0.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", 0.5, 0.5),
        ("k2", 0.125, 0.5),
        ("k3", math.exp(-0.5) - 0.5, 1 - math.exp(-0.5)),
    ],
)
def test_kl_by_hand(estimator: KlEstimator, value: float, slope: float) -> None:
    reference = torch.tensor([-1.5], dtype=torch.float64)
    logprobs = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    got = ESTIMATORS[estimator](logprobs, reference)
    got.sum().backward()
    assert got.item() == pytest.approx(value)
    assert logprobs.grad is not None and logprobs.grad.item() == pytest.approx(slope)
    far = ESTIMATORS[estimator](logprobs, torch.tensor([500.0]))
    assert torch.isfinite(far).all()
    rule = algorithm_named("rloo", Overrides(kl=0.1, kl_estimator=estimator))
    loss = PolicyLoss(algorithm=rule, max_tokens=MAX_TOKENS, reference=lambda _: reference)
    total, gradient, told = evaluate(loss, [-1.0], batch([-1.0], [2.0], [1]))
    assert total == pytest.approx(2.0 + 0.1 * value)
    assert gradient == pytest.approx([-2.0 + 0.1 * slope])
    assert told["kl"] == pytest.approx(value)


def test_importance_weights_are_truncated_and_constant() -> None:
    rule = algorithm_named("dapo_static", Overrides(truncate=2.0))
    loss = PolicyLoss(algorithm=rule, max_tokens=MAX_TOKENS)
    logs = [OLD + math.log(3), OLD - math.log(2)]
    total, gradient, told = evaluate(loss, logs, batch([OLD] * 2, [1.0, 4.0], [1, 1]))
    assert total == pytest.approx(-2 * 1 - 0.5 * 4)
    assert gradient == pytest.approx([-2.0, -2.0])
    assert (told["truncated_share"], told["clip_share"]) == (1.0, 0.0)


def test_mismatch_figures_by_hand() -> None:
    loss = PolicyLoss(algorithm=ALGORITHMS["dapo_static"], max_tokens=MAX_TOKENS)
    logs = [OLD + math.log(2), OLD - math.log(2)]
    _, _, told = evaluate(loss, logs, batch([OLD] * 2, [1.0, 1.0], [2]))
    assert told["mismatch"] == pytest.approx(2 * math.log(2))
    # (2 - ln 2 - 1) + (1/2 + ln 2 - 1)
    assert told["mismatch_k3"] == pytest.approx(0.5)
    assert told["max_ratio"] == pytest.approx(2.0)


# ---- groups without spread ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kl", "num_samples", "denominator"),
    [
        ("dapo_static", 0.0, 2, 4.0),  # tokens of the group that has spread
        ("dapo", 0.0, 2, 4.0),
        ("dapo", 0.1, 2, 4.0),
        ("grpo", 0.0, 2, 4.0),  # answers of both groups
        ("grpo", 0.1, 4, 4.0),  # the KL term of the others counts as well
        ("dr_grpo", 0.0, 2, 4.0),
        ("gspo", 0.0, 2, 4.0),
        ("gspo_token", 0.0, 2, 4.0),
        ("cispo", 0.0, 2, 7.0),  # tokens of both groups
        ("rloo", 0.0, 2, 4.0),
        ("reinforce_pp", 0.0, 4, 7.0),
        ("reinforce_pp_baseline", 0.0, 2, 7.0),
    ],
)
def test_groups_without_spread(name: str, kl: float, num_samples: int, denominator: float) -> None:
    groups = [
        [trajectory(1.0, 1), trajectory(0.0, 3)],
        [trajectory(1.0, 1), trajectory(1.0, 2)],
    ]
    rule = replace(ALGORITHMS[name], kl=kl, overlong=0.0)
    made = to_samples(groups, rule, max_tokens=MAX_TOKENS)
    assert (len(made.samples), made.denominator) == (num_samples, denominator)
    assert (made.counts.num_groups, made.counts.num_dead) == (2, 1)


def test_groups_that_are_replaced_count_for_nothing() -> None:
    groups = [[trajectory(1.0), trajectory(0.0)], [trajectory(1.0), trajectory(1.0)]]
    rule = algorithm_named("grpo", Overrides(refill=1.0, kl=0.1))
    made = to_samples(groups, rule, max_tokens=MAX_TOKENS)
    assert (len(made.samples), made.denominator) == (2, 2.0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_is_trained_where_all_rewards_are_alike(name: str) -> None:
    groups = [[trajectory(1.0), trajectory(1.0)], [trajectory(1.0), trajectory(1.0)]]
    assert not to_samples(groups, ALGORITHMS[name], max_tokens=MAX_TOKENS).samples


# ---- configs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("dr_gpro", Overrides(), "algorithm='dr_gpro' is unknown; did you mean dr_grpo"),
        ("GSPO", Overrides(), "algorithm='GSPO' is unknown; "),
        ("grpo", Overrides(clip_low=0.3), "clip_low=0.3 above clip_high=0.2"),
        ("cispo", Overrides(clip_low=1.5), "clip_low=1.5 would allow negative ratios"),
        ("grpo", Overrides(clip_low=-0.1), "clip_low=-0.1 must be 0 or more"),
        ("grpo", Overrides(kl=math.nan), "kl=nan must be 0 or more"),
        ("grpo", Overrides(clip_low=0.0, clip_high=0.0), "clip_high=0 would clip"),
        ("rloo", Overrides(clip_high=0.2), "algorithm=rloo does not clip"),
        ("grpo", Overrides(kl=0.1, kl_estimator="k4"), "kl_estimator='k4' is none of k1, k2, k3"),
        ("grpo", Overrides(kl_estimator="k2"), "kl_estimator=k2 changes nothing while kl=0"),
        ("grpo", Overrides(aggregation="mean"), "aggregation='mean' is none of token_mean"),
        ("grpo", Overrides(truncate=0.5), "truncate=0.5 would shrink every token"),
        ("cispo", Overrides(truncate=2.0), "set clip_high instead"),
        ("gspo", Overrides(query_credit=0.5), "use algorithm=gspo_token"),
        ("gspo_token", Overrides(query_credit=1.5), "query_credit=1.5 is a share"),
        ("dapo", Overrides(overlong=1.0), "overlong=1.0 is a share of max_tokens"),
        ("reinforce_pp", Overrides(refill=1.0), "set refill=0"),
        ("grpo", Overrides(dual_clip=0.5), "dual_clip=0.5 must be above 1"),
        ("cispo", Overrides(dual_clip=3.0), "bounds the clipped surrogate alone"),
    ],
)
def test_contradictions_are_refused(name: str, overrides: Overrides, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        algorithm_named(name, overrides)


def test_words_of_the_command_line_reach_the_algorithm() -> None:
    words = ["algorithm=grpo", "overrides.kl=0.001", "overrides.clip_high=0.28"]
    words += ["selection.order=informative", "selection.prior=[0.5,0.17]", "selection.pool=2"]
    config = load_config(RLConfig, "rl", "demo", words)
    assert config.chosen_algorithm == replace(ALGORITHMS["grpo"], kl=0.001, clip_high=0.28)
    chosen = config.selection
    assert (chosen.order, list(chosen.prior), chosen.pool) == ("informative", [0.5, 0.17], 2)
    with pytest.raises(ConfigError, match=r"clip_high is overrides\.clip_high"):
        load_config(RLConfig, "rl", "demo", ["clip_high=0.3"])
    plain = load_config(RLConfig, "rl", "demo", [])
    assert (plain.algorithm, plain.selection.order) == ("dapo_static", "uniform")


def test_overrides_change_their_row_alone() -> None:
    got = algorithm_named("grpo", Overrides(clip_high=0.28, kl=0.001, aggregation="token_mean"))
    assert got == Algorithm(clip_high=0.28, kl=0.001)
    assert ALGORITHMS["grpo"].kl == 0.0
