"""The plan of a run: what it says, what it finds missing, and its memory against real tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rl.config import (
    PolicyLearnerConfig,
    ProgressConfig,
    QuestionsConfig,
    RLConfig,
    RolloutConfig,
    SaveConfig,
)
from rl.division import main as division_main
from rl.policy.decoder import Decoder
from rl.policy.sglang import preflight as engine_preflight
from rl.policy.sglang.config import EngineConfig
from rl.start.memory import (
    disk_gb,
    engine_gb,
    run_gb,
    together_gb,
)
from rl.start.plan import staleness_note
from rl.start.preflight import examine
from rl.tabletop.dataset import Order, write_dataset
from rl.train import main as train_main
from sft.config import LoraConfig, ShardConfig, ToolsConfig, load_config, to_yaml
from sft.lora import add_adapters
from sft.memory import Shape, shape_of, trained_numbers
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
    query_width=2048,
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
        tools=ToolsConfig(config="light", show=["roborefer.detect_one"], schema="any"),
        rollout=RolloutConfig(max_tokens=24, max_length=256),
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
    short = RolloutConfig(max_tokens=24, max_length=30)
    assert "raise max_length" in "\n".join(examine(replace(config, rollout=short)).missing)


def test_a_run_that_its_folder_would_refuse_is_missing_something(config: RLConfig) -> None:
    folder = Path(config.out)
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    assert examine(config).missing == []
    (told,) = examine(replace(config, steps=7)).missing
    assert "holds a run with another config (steps=100 there, steps=7 now)" in told
    (folder / "config.yaml").write_text("out: x\nepochs: 3\n")
    (told,) = examine(config).missing
    assert "holds a run of another command" in told and "delete" not in told


def test_words_that_no_machine_knows_are_missing_something(config: RLConfig) -> None:
    show = ProgressConfig(track=["wandbb"])
    device, track = examine(replace(config, device="cdua", show=show)).missing
    assert "device='cdua' is none of" in device and "show.track=wandbb is none of" in track
    with pytest.raises(ConfigError, match="use bfloat16"):
        replace(config, dtype="float16")


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
    words += [f"data=[{{path: {config.data[0].path}}}]", "val.data=", "val.every=0"]
    words += [f"out={tmp_path / 'run'}", "tools.schema=any", "--check"]
    assert train_main([*words, "model=no/such"]) == 2
    assert "missing: no/such is no checkpoint" in capsys.readouterr().out
    assert train_main([*words, f"model={config.model}", "rollout.max_length=20000"]) == 0


def test_what_a_script_divides_by_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    engine = ("engine.tensor_parallel=2", "engine.device=cuda")
    assert division_main(["v1", "tools.config=demo", "out=a b", *engine]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "policy=sglang",
        "device=cuda",
        "tools=demo",
        "out=a b",
        "tensor_parallel=2",
        "colocated=false",
    ]


def test_engines_on_the_learner_s_gpus_are_found(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without torch, so before a GPU is asked for."""
    monkeypatch.setattr(engine_preflight, "visible_gpus", lambda: 4)
    monkeypatch.setattr("toolshed.resources.visible_gpus", lambda: 4)
    engine = EngineConfig(device="cuda", servers=2, gpus=[4, 5], environment=sys.executable)
    run = replace(config, policy="sglang", device="cuda", engine=engine)
    assert "engines need GPU 5, and 4 GPUs" in "\n".join(examine(run, ranks=2).missing)
    run = replace(run, engine=replace(engine, gpus=[1, 2]))
    assert "gives engines the same GPU" in "\n".join(examine(run, ranks=2).missing)
    assert examine(replace(run, engine=replace(engine, gpus=[2, 3])), ranks=2).missing == []
    assert "8 ranks need a GPU each" in "\n".join(examine(run, ranks=8).missing)


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
    config.learner.shard = ShardConfig(zero=2, checkpointing=True)
    parts = run_gb(QWEN_3B, config, ranks=4)
    assert parts["weights"] == pytest.approx(7.51, abs=0.01)
    assert parts["gradients and Adam"] == pytest.approx(12.34, abs=0.01)
    assert parts["reference"] == pytest.approx(6.17, abs=0.01)
    assert sum(parts.values()) < 60
    config.learner.shard = ShardConfig(zero=3, checkpointing=True)
    assert run_gb(QWEN_3B, config, ranks=4)["weights"] < 3
    engine = engine_gb(QWEN_3B, config)
    # 36 layers x 512 numbers x 2 bytes for each of 16,384 places.
    assert engine["one trajectory at its longest"] == pytest.approx(0.604, abs=0.001)


def test_adapters_are_counted_as_peft_makes_them(tiny: Path) -> None:
    pytest.importorskip("peft")
    config = RLConfig(learner=PolicyLearnerConfig(lora=LoraConfig(rank=4)))
    model = load_model(tiny)
    add_adapters(model, config.learner.lora)
    made = sum(each.numel() for name, each in model.named_parameters() if ".lora_" in name)
    shape = shape_of(tiny)
    assert trained_numbers(shape, config.learner) == made
    # They need no copy of the weights for a KL term: they are turned off.
    config.overrides.kl = 0.1
    assert "reference" not in run_gb(shape, config, 1)
    assert "reference" in run_gb(shape, replace(config, learner=PolicyLearnerConfig()), 1)


def test_who_plays_in_the_learner_s_process_is_counted(tiny: Path) -> None:
    config = RLConfig(rollout=RolloutConfig(width=33, max_length=128))
    decoder = Decoder(load_model(tiny), num_slots=33, max_length=128)
    cache = sum(each.nbytes for each in [*decoder.keys, *decoder.values])
    parts = run_gb(shape_of(tiny), config, 1)
    assert parts["decoder's cache"] * 1e9 == cache
    assert parts["features"] * 1e9 == config.learner.shard.features_mb << 20
    assert "decoder's cache" not in run_gb(shape_of(tiny), replace(config, policy="sglang"), 1)


def test_one_gpu_for_both_holds_both() -> None:
    engine = EngineConfig(device="cuda", dtype="bfloat16", colocated=True)
    config = RLConfig(policy="sglang", device="cuda", dtype="bfloat16", engine=engine)
    config.learner.shard = ShardConfig(zero=2)
    both = together_gb(QWEN_3B, config, 1)
    # Weights twice, 16 bytes of each number that is trained, features, a cache of 8192 places.
    assert both == pytest.approx(2 * 7.51 + 49.37 + 2.15 + 0.302, abs=0.02)


def test_the_disk_holds_every_export_that_is_kept() -> None:
    learner = PolicyLearnerConfig(shard=ShardConfig(zero=2))
    config = RLConfig(steps=85, save=SaveConfig(every=5), dtype="bfloat16", learner=learner)
    found = disk_gb(QWEN_3B, config)
    assert found["17 exports"] == pytest.approx(17 * 7.51, abs=0.1)
    assert found["states"] == pytest.approx(3 * (7.51 + 12 * 3.086), abs=0.1)
    two, none = SaveConfig(every=5, keep_hf=2), SaveConfig(every=5, hf=False)
    assert disk_gb(QWEN_3B, replace(config, save=two))["3 exports"] < 23
    assert "17 exports" not in disk_gb(QWEN_3B, replace(config, save=none))


def test_a_torn_checkpoint_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3}))
    with pytest.raises(ConfigError, match="num_attention_heads"):
        shape_of(tmp_path)


@pytest.mark.parametrize(
    ("staleness", "steps", "width", "said"),
    [
        (99, 10, 640, "is as 9 in a run of steps=10"),
        (9, 10, 640, ""),
        (5, 100, 64, "holds those of 1 (64 each)"),
        (5, 100, 192, ""),
        (2, 100, 16, ""),
        (1, 1, 64, ""),
    ],
)
def test_staleness_that_a_run_cannot_use_is_noted(
    staleness: int, steps: int, width: int, said: str
) -> None:
    config = RLConfig(max_staleness=staleness, steps=steps, rollout=RolloutConfig(width=width))
    note = staleness_note(config)
    assert said in note and bool(said) == bool(note) and "\n" not in note
    assert not note or f"note: {note}" in examine(config).text()
