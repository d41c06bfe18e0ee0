"""scripts/bench/learner_gpu.py without a GPU: its formula by hand, its code path on a CPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from scripts.bench.learner_flops import layer_numbers, peak_of, tower_pairs, update_flops
from scripts.bench.learner_gpu import main
from toolshed.errors import ConfigError

TEXT = SimpleNamespace(
    hidden_size=8,
    intermediate_size=10,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=100,
)
VISION = SimpleNamespace(
    hidden_size=4,
    intermediate_size=6,
    depth=3,
    in_channels=3,
    patch_size=2,
    temporal_patch_size=2,
    spatial_merge_size=2,
    out_hidden_size=8,
    window_size=8,
    fullatt_block_indexes=[2],
)
CONFIG = SimpleNamespace(text_config=TEXT, vision_config=VISION)


def test_operations_are_those_counted_by_hand() -> None:
    # Queries and output 8 x 8 each, keys and values 8 x 4 each, three matrices of 8 x 10.
    assert layer_numbers(TEXT) == 2 * (64 + 64 + 32 + 32 + 240) == 864
    # Pairs of a sample of 3 and one of 2: 6 and 3. Width 8 in 2 layers; scores, then values.
    attention = 2 * 2 * 8 * 2 * (6 + 3)
    forward = 2 * 864 * 5 + 2 * 800 * 3 + attention
    assert update_flops(CONFIG, [3, 2], 3, [], backward=False) == forward
    assert update_flops(CONFIG, [3, 2], 3, []) == 3 * forward
    # 6 x 4 patches; windows of 4 x 4 patches: one whole, one of 2 x 4.
    pairs = 24**2 + 2 * (16**2 + 8**2)
    assert tower_pairs(VISION, (1, 6, 4)) == pairs
    # 4 x 24 opening, 3 blocks of 4 x 16 and 3 x 24, a merger of 16 x 16 and 16 x 8 for 4 patches.
    tower = 2 * (96 + 3 * (64 + 72) + 96) * 24 + 4 * 4 * pairs
    assert update_flops(CONFIG, [3, 2], 3, [(1, 6, 4)]) == 3 * forward + tower


def test_the_peak_of_a_device_is_known_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cuda:0": "NVIDIA H100 PCIe", "cuda:1": "NVIDIA H100 80GB HBM3", "cuda:2": "Made Up"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert peak_of("cuda:0", 0.0) == 756e12
    assert peak_of("cuda:1", 0.0) == 989.4e12
    assert peak_of("cuda:2", 12.0) == 12e12
    with pytest.raises(ConfigError, match=r"peak of Made Up .* --peak-tflops"):
        peak_of("cuda:2", 0.0)


def test_the_tiny_shape_runs_the_whole_path(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tiny", "--device", "cpu", "--json", "--rounds", "1", "--zero", "0"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["tokens"] > told["trained_tokens"] > 0 and told["logprob_tokens_per_s"] > 0
    # Two moments of all that is trained, in bfloat16 as the weights are: no master without ZeRO.
    assert told["master_gb"] == 0
    assert 1.4 * told["weights_gb"] < told["optimiser_gb"] < 2 * told["weights_gb"]
    assert not {"mfu", "peak_gb", "activations_gb"} & told.keys()


def test_without_a_gpu_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert main(["--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "there is no GPU here" in said and "--device cpu is for --tiny" in said
