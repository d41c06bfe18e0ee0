"""The plan of a run: what it says, what it finds missing, and its memory against real tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rl.config import QuestionsConfig, RLConfig
from rl.memory import Shape, engine_gb, learner_gb, shape_of
from rl.preflight import examine, main
from rl.tabletop import Order, write_dataset
from rl.train import main as train_main
from sft.config import ShardConfig, ToolsConfig, load_config
from sft.model import load_model
from toolshed.errors import ConfigError

QWEN_3B = Shape(
    num_parameters=3_754_622_976,
    num_vision=668_682_752,
    layers=36,
    hidden=2048,
    feed_forward=11008,
    vocabulary=151936,
    kv_width=2 * 2 * 128,
)
"""About Qwen2.5-VL-3B-Instruct."""


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> RLConfig:
    data = tmp_path / "train.parquet"
    write_dataset(data, Order(kinds=("point",), num=4, size=112))
    return RLConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        data=[QuestionsConfig(path=str(data), rows=4)],
        tools=ToolsConfig(config="light", show=["roborefer.detect_one"]),
        schema="any",
        max_tokens=24,
        max_length=256,
    )


def test_a_run_that_can_start_is_told_whole_and_leaves_nothing(config: RLConfig) -> None:
    found = examine(config)
    assert found.missing == [], found.text()
    told = found.text()
    for words in (
        "100 of 8 questions x 8 rollouts, 64 at a time, max_staleness 0, informative",
        "dapo_static, lr 1e-05, KL 0",
        "light: roborefer.detect_one",
        f"{config.model}, 0.00112 billion parameters",
        f"{config.data[0].path}, 4 rows",
        "transformers, in the process of the learner",
        "a checkpoint every 20 steps",
        "a new run",
    ):
        assert words in told, told
    assert not Path(config.out).exists()


def test_all_that_is_missing_is_said_at_once(config: RLConfig, tmp_path: Path) -> None:
    data = [QuestionsConfig(path=str(tmp_path / "gone.parquet"))]
    broken = replace(config, model="no/such", data=data, policy="sglang", device="cuda")
    broken.engine.environment = "no-such-environment"
    told = "\n".join(examine(broken).missing)
    for words in ("no/such is no checkpoint", "gone.parquet does not exist", "no GPU is seen"):
        assert words in told
    assert "no-such-environment" in told
    assert "rows=9 says otherwise" in "\n".join(
        examine(replace(config, data=[replace(config.data[0], rows=9)])).missing
    )
    assert "raise max_length" in "\n".join(examine(replace(config, max_length=30)).missing)


def test_the_recipes_are_told_without_torch_ray_or_network(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rl.train import main\n"
        "found = main(sys.argv[1:])\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "sys.exit(found)"
    )
    words = ["v1", "--check", f"model={tiny}", f"out={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "hub:" not in done.stdout and "on the hub, to be fetched, 5500 rows" in done.stdout
    assert "missing: tools.config=v1 cannot run here" in done.stdout
    assert "missing: device=cuda, but no GPU is seen here" in done.stdout


def test_the_command_ends_with_2_where_something_lacks(
    config: RLConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["v1", "device=cpu", "policy=transformers", "tools.config=none", "dtype=float32"]
    words += [f"data=[{{path: {config.data[0].path}}}]", "val_data=", "val_every=0"]
    words += [f"out={tmp_path / 'run'}", "schema=any", "--check"]
    assert train_main([*words, "model=no/such"]) == 2
    assert "missing: no/such is no checkpoint" in capsys.readouterr().out
    assert train_main([*words, f"model={config.model}", "max_length=20000"]) == 0
    assert main(["v1", "tools.config=demo", "out=a b"]) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == ["sglang", "cuda", "demo", "a b"]


# ---- memory -------------------------------------------------------------------------------------


def test_a_checkpoint_s_shape_is_that_of_its_tensors(tiny: Path) -> None:
    shape, model = shape_of(tiny), load_model(tiny)
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    assert shape.num_parameters == sum(sizes.values())
    assert shape.num_vision == sum(n for name, n in sizes.items() if ".visual." in name)
    assert (shape.layers, shape.hidden, shape.kv_width) == (4, 128, 2 * 2 * 32)
    with pytest.raises(ConfigError, match="is no Hugging Face checkpoint"):
        shape_of(tiny.parent)


def test_the_recipe_fits_where_the_release_ran() -> None:
    """On 80 GB: by hand 2 x 3.75 for weights, 16 x 3.09 / 4 for what ZeRO-2 cuts over 4 ranks."""
    config = load_config(RLConfig, "rl", "v1_code", [])
    config.shard = ShardConfig(zero=2, checkpointing=True)
    parts = learner_gb(QWEN_3B, config, ranks=4)
    assert parts["weights"] == pytest.approx(7.51, abs=0.01)
    assert parts["gradients and Adam"] == pytest.approx(12.34, abs=0.01)
    assert parts["reference"] == pytest.approx(6.17, abs=0.01)
    assert sum(parts.values()) < 60
    config.shard = ShardConfig(zero=3, checkpointing=True)
    assert learner_gb(QWEN_3B, config, ranks=4)["weights"] < 3
    engine = engine_gb(QWEN_3B, config)
    # 36 layers x 512 numbers x 2 bytes for each of 16,384 places.
    assert engine["one trajectory at its longest"] == pytest.approx(0.604, abs=0.001)


def test_a_torn_checkpoint_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3}))
    with pytest.raises(ConfigError, match="num_attention_heads"):
        shape_of(tmp_path)
