"""Two gloo ranks with ZeRO learn what one process learns alone, and resume and export it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sft.config import OptimConfig, ShardConfig
from sft.learner import Learner
from sft.model import load_model
from sft.ranks import own_share
from sft.render import Renderer
from tests.sft.groups import Shape, group
from toolshed.errors import ConfigError

SCRIPT = Path(__file__).with_name("zero_rank.py")
BAR = 1e-4

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed (extra: train)"
)


def run(tiny: Path, out: Path, stage: int, *words: str) -> Any:
    """What rank 0 of two told, or with stage 0 one process without DeepSpeed."""
    out.mkdir(exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-W", "ignore", *(launch if stage else []), str(SCRIPT)]
    done = subprocess.run(
        [*command, str(tiny), str(out), str(stage), *words],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(out / "told.pt", weights_only=False)


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tiny, tmp_path_factory.mktemp("alone"), 0)


@torch.no_grad()
def furthest(expected: Any, got: Any, *more: str) -> dict[str, float]:
    """Largest relative differences over the steps, and of all weights taken together."""
    told = list(zip(expected["told"][-len(got["told"]) :], got["told"], strict=True))
    return {
        name: max(abs(a[name] - b[name]) / (abs(a[name]) or 1.0) for a, b in told)
        for name in ("loss", "grad_norm", "lr", "tokens", "mismatch", "max_ratio", *more)
    } | {"parameters": apart(expected["weights"], got["weights"])}


def apart(expected: dict[str, Any], got: dict[str, Any]) -> float:
    assert expected.keys() == got.keys()
    a, b = (torch.cat([w[k].detach().float().flatten() for k in expected]) for w in (expected, got))
    return float((a - b).norm() / a.norm())


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "words"), [(2, ()), (3, ()), (3, ("shared", "recompute"))], ids=str
)
def test_two_ranks_learn_what_one_does(
    stage: int, words: tuple[str, ...], tiny: Path, alone: Any, tmp_path: Path
) -> None:
    got = run(tiny, tmp_path, stage, *words)
    assert len(got["told"]) == 5
    found = furthest(alone, got)
    assert max(found.values()) <= BAR, found


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "words"), [(2, ()), (3, ("shared",)), (3, ("lora",))], ids=str)
def test_ranks_have_the_reference_of_one_process(
    stage: int, words: tuple[str, ...], tiny: Path, tmp_path: Path
) -> None:
    expected = run(tiny, tmp_path / "alone", 0, "kl", *words)
    assert expected["told"][-1]["kl"] > 1e-4
    found = furthest(expected, run(tiny, tmp_path / "ranks", stage, "kl", *words), "kl")
    assert max(found.values()) <= BAR, found


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_a_trained_tower_is_run_by_ranks_without_pictures_too(
    stage: int, tiny: Path, tmp_path: Path
) -> None:
    expected = run(tiny, tmp_path / "alone", 0, "tower")
    found = furthest(expected, run(tiny, tmp_path / "ranks", stage, "tower"))
    assert max(found.values()) <= BAR, found


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_sharded_state_resumes_exactly(stage: int, tiny: Path, tmp_path: Path) -> None:
    whole = run(tiny, tmp_path / "whole", stage)
    run(tiny, tmp_path / "cut", stage, "stop")
    resumed = run(tiny, tmp_path / "cut", stage, "resume")
    for figures in (*resumed["told"], *whole["told"]):
        figures.pop("features_kept", None)
    assert resumed["told"] == whole["told"][3:]
    assert all(torch.equal(resumed["weights"][k], w) for k, w in whole["weights"].items())


@needs_deepspeed
@pytest.mark.slow
def test_bfloat16_has_a_float32_master_that_is_saved(tiny: Path, tmp_path: Path) -> None:
    told = run(tiny, tmp_path, 2, "bf16", "stop")
    assert {w.dtype for w in told["weights"].values()} == {torch.float32}  # as it was loaded
    (shard, _) = sorted((tmp_path / "state" / "state").glob("*zero_pp_rank_*_optim_states.pt"))
    state = torch.load(shard, weights_only=False)["optimizer_state_dict"]
    masters = state["single_partition_of_fp32_groups"]
    assert {master.dtype for master in masters} == {torch.float32}
    # Finer than bfloat16 could keep.
    assert any(not torch.equal(m, m.bfloat16().float()) for m in masters)


@needs_deepspeed
@pytest.mark.slow
def test_another_number_of_ranks_is_refused(tiny: Path, tmp_path: Path) -> None:
    run(tiny, tmp_path, 2, "stop")
    script = [sys.executable, "-W", "ignore", str(SCRIPT), str(tiny), str(tmp_path), "2", "resume"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=240, check=False)
    assert "holds the shards of 2 ranks and this run has 1; resume with as many" in done.stderr


def test_recomputed_layers_give_the_same_gradient(tiny: Path) -> None:
    def gradient(recompute: bool) -> torch.Tensor:
        one = Learner(
            load_model(tiny), Renderer.load(tiny), OptimConfig(), total_steps=1,
            shared_prefix=True, shard=ShardConfig(checkpointing=recompute),
        )  # fmt: skip
        calls = []
        layer = one.model.model.language_model.layers[0].self_attn
        layer.q_proj.register_forward_hook(lambda *_: calls.append(1))
        one.forward_backward(group(one.renderer, Shape(prompt_images=1)))
        assert len(calls) == 1 + recompute
        return torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None])

    assert torch.equal(gradient(True), gradient(False))


def test_ranks_share_a_step_without_loss_or_doubling(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer.load(tiny)
    shapes = [Shape(prompt=n, answers=((n,), (3,), (4,))) for n in (5, 30, 60, 20)]
    samples = [s for i, shape in enumerate(shapes) for s in group(renderer, shape, i)]
    monkeypatch.setattr("sft.ranks.num_ranks", lambda: 3)
    for whole_groups in (False, True):
        shares = []
        for number in range(3):
            monkeypatch.setattr("sft.ranks.rank", lambda number=number: number)
            shares.append(own_share(samples, renderer, whole_groups=whole_groups))
        assert sorted(id(s) for share in shares for s in share) == sorted(map(id, samples))
        prompts = [{s.token_ids[: s.spans[0].end] for s in share} for share in shares]
        assert all(shares) and (sum(map(len, prompts)) == 4) == whole_groups


def test_contradictions_are_said(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="zero=1 is none of 0, 2, 3"):
        ShardConfig(zero=1)
    with pytest.raises(ConfigError, match=r"muon_lr=0\.01 needs whole matrices"):
        Learner(
            load_model(tiny), Renderer.load(tiny), OptimConfig(muon_lr=0.01), total_steps=1,
            shard=ShardConfig(zero=2),
        )  # fmt: skip
