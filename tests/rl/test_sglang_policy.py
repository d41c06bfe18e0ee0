"""The engine's policy without an engine: what is sent, what is read, what is refused."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.policy.base import PolicyFailure
from rl.policy.sglang.config import MARGIN, EngineConfig, with_limits
from rl.policy.sglang.names import (
    check_complete,
    engine_name,
    for_loader,
    loader_name,
)
from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.preflight import check_lengths, check_training
from rl.policy.sglang.replies import read_piece
from rl.policy.sglang.requests import EngineSampling, Generate, ReceiveBucket
from rl.policy.sglang.server import (
    _engine_variables,
    arguments,
    interpreter,
    known_version,
)
from rl.policy.sglang.tensor_sync import in_buckets
from sft.config import LoraConfig
from sft.render import Renderer
from tests.rl.engine_checks import checksums
from tests.rl.engines import Held
from toolshed.errors import ConfigError

SAMPLING = EngineSampling(
    max_new_tokens=4, temperature=1.0, stop_token_ids=(2,), logit_bias={"5": -1e9}
)

LORA = LoraConfig(rank=4)


def reply(ids: list[int], **meta: Any) -> Any:
    known = {
        "finish_reason": {"type": "length", "length": len(ids)},
        "prompt_tokens": 9,
        "cached_tokens": 3,
        "weight_version": "1",
        "weight_versions": [{"version": "1", "start": 0, "end": len(ids)}],
        "output_token_logprobs": [[-0.5, token, None] for token in ids],
    }
    return {"text": "", "output_ids": ids, "meta_info": known | meta}


# ---- requests and answers -----------------------------------------------------------------------


def test_what_is_none_is_left_out_and_nothing_else() -> None:
    body = Generate(rid="a", input_ids=(1, 2), image_data=None, sampling_params=SAMPLING).body()
    assert body["input_ids"] == [1, 2] and body["return_logprob"] is True
    assert set(body) == {"rid", "input_ids", "sampling_params", "return_logprob"}
    assert isinstance(body["sampling_params"], dict)
    assert "sampling_seed" not in body["sampling_params"]
    assert body["sampling_params"]["logit_bias"] == {"5": -1e9}
    with pytest.raises(TypeError):
        Generate(rid="a", input_ids=(), image_data=None, sampling_params=SAMPLING, top=1)  # type: ignore[call-arg]


def test_a_bucket_says_what_it_holds() -> None:
    body = ReceiveBucket(
        names=("a", "b"),
        dtypes=("float32", "float32"),
        shapes=((2, 3), ()),
        group_name="g",
        flush_cache=False,
        weight_version=None,
    ).body()
    assert body["shapes"] == [[2, 3], []] and body["flush_cache"] is False
    assert body["load_format"] == "flattened_bucket" and "weight_version" not in body


@given(st.lists(st.integers(0, 9), max_size=20), st.data())
def test_spans_become_one_version_per_token(ids: list[int], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4)))
    edges = [0, *cuts, len(ids)]
    spans = [
        {"version": str(n), "start": start, "end": end}
        for n, (start, end) in enumerate(itertools.pairwise(edges))
    ]
    piece = read_piece(reply(ids, weight_versions=spans), sent=0)
    assert len(piece.versions) == len(piece.token_ids) == len(piece.logprobs)
    for n, (start, end) in enumerate(itertools.pairwise(edges)):
        assert piece.versions[start:end] == (n,) * (end - start)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (reply([1, 2], output_token_logprobs=[[-0.5, 1, None]]), "engine_logprobs"),
        (reply([1], output_token_logprobs=[[-0.5, 2, None]]), "engine_logprobs"),
        (reply([1], weight_versions=[]), "engine_versions"),
        (reply([1], weight_versions=[{"version": "1", "start": 1, "end": 2}]), "engine_versions"),
        (reply([1], weight_versions=None, weight_version="default"), "engine_reply"),
        (reply([1], finish_reason=None), "engine_reply"),
        (reply([1], finish_reason={"type": "tired"}), "engine_reply"),
        (
            reply([], finish_reason={"type": "abort", "message": "no", "status_code": 500}),
            "engine_error",
        ),
        ([], "engine_reply"),
        (None, "engine_reply"),
        ({"output_ids": [1]}, "engine_reply"),
    ],
)
def test_an_answer_that_does_not_fit_is_a_machine_failure(told: Any, reason: str) -> None:
    with pytest.raises(PolicyFailure) as caught:
        read_piece(told, sent=1)
    assert caught.value.reason == reason


def test_an_interruption_is_no_error() -> None:
    piece = read_piece(reply([4], finish_reason={"type": "abort", "message": "by us"}), sent=1)
    assert piece.end == "abort" and piece.token_ids == (4,) and piece.prompt_ids is None


@pytest.mark.parametrize(("told", "sent", "version"), [("5", 4, 4), ("5", 5, 5), ("4", 5, 4)])
def test_before_0_5_20_tokens_never_count_as_newer_than_they_are(
    told: str, sent: int, version: int
) -> None:
    piece = read_piece(reply([1, 2], weight_versions=None, weight_version=told), sent=sent)
    assert piece.versions == (version, version)


# ---- names --------------------------------------------------------------------------------------


def test_every_parameter_has_a_loaders_name_and_a_place(tiny: Path) -> None:
    held = Held(tiny, frozen="none")
    names = for_loader(held.trained())
    assert len(names) == len(list(held.model.named_parameters()))
    assert engine_name("model.layers.0.self_attn.k_proj.bias") == (
        "model.layers.0.self_attn.qkv_proj.bias",
        1,
    )
    assert engine_name("visual.blocks.0.attn.qkv.weight")[0] == (
        "visual.blocks.0.attn.qkv_proj.weight"
    )
    assert not any("language_model" in name or "model.visual" in name for name in names)
    sums = checksums(names, torch.float32)
    assert set(sums) == {engine_name(name)[0] for name in names}
    names = for_loader(Held(tiny).trained())
    assert names and not any(name.startswith("visual.") for name in names)


def test_a_part_of_a_joined_tensor_proves_nothing(tiny: Path) -> None:
    names = for_loader(Held(tiny).trained())
    alone = {name: names[name] for name in names if "q_proj" in name and "model." in name}
    assert alone and not checksums(alone, torch.float32)


def test_tensors_that_nobody_would_take_are_errors() -> None:
    with pytest.raises(ConfigError, match="merge adapters"):
        loader_name("base_model.model.q_proj.lora_A.weight")
    with pytest.raises(ConfigError, match="skip 1 tensors without a word, a first"):
        check_complete(["a", "b"], ["b", "c"])


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([torch.float32, torch.bfloat16]))),
    st.integers(1, 100),
)
def test_buckets_hold_everything_once_in_order(
    sizes: list[tuple[int, torch.dtype]], most: int
) -> None:
    tensors = {str(n): torch.zeros(size, dtype=kind) for n, (size, kind) in enumerate(sizes)}
    buckets = in_buckets(tensors, most)
    assert [name for each in buckets for name in each] == list(tensors)
    for each in buckets:
        assert each and len({tensor.dtype for tensor in each.values()}) == 1
        assert len(each) == 1 or sum(tensor.nbytes for tensor in each.values()) <= most


# ---- configs and versions -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0.5.18", "0.5.21", "0.5.23", "0.5.22.post1"])
def test_known_versions(text: str) -> None:
    assert known_version(text) == tuple(int(each) for each in text.split(".")[:3])


@pytest.mark.parametrize("text", ["0.5.17", "0.5.24", "0.6.0", "1.0.0", "None", "main", "0.5.234"])
def test_other_versions_are_refused_with_the_range(text: str) -> None:
    with pytest.raises(ConfigError, match=r"0\.5\.18 to 0\.5\.23 are known"):
        known_version(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"device": "tpu"}, "device='tpu' is none of cpu, cuda"),
        ({"servers": 0}, "servers=0 must be above 0"),
        ({"device": "cuda", "servers": 2, "gpus": [0]}, "2 servers of 1 need 2"),
        ({"deterministic": True}, "for device=cuda alone"),
        ({"checked_prompts": 2.0}, "a share, 0 to 1"),
    ],
)
def test_configs_that_make_no_sense(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**words)
    assert said in str(caught.value)


def test_an_environment_that_was_not_made_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLSHED_ENVS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"type bash setup_envs\.sh sglang --cpu"):
        interpreter(EngineConfig())


def test_what_an_engine_is_started_with() -> None:
    config = EngineConfig(device="cuda", dtype="bfloat16", tensor_parallel=2, deterministic=True)
    words = arguments(config, Path("/ckpt"), 7)
    assert words[words.index("--weight-version") + 1] == "7"
    assert words[words.index("--tensor-parallel-size") + 1] == "2"
    assert "--enable-deterministic-inference" in words and "torch_native" not in words
    assert "torch_native" in arguments(EngineConfig(), Path("/ckpt"), 0)


def test_each_server_has_its_own_gpus_of_those_that_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gpus(config: EngineConfig) -> list[str]:
        made = [_engine_variables(config, number) for number in range(config.servers)]
        return [each["CUDA_VISIBLE_DEVICES"] for each in made]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus(EngineConfig(device="cuda", servers=2, tensor_parallel=2)) == ["0,1", "2,3"]
    assert gpus(EngineConfig(device="cuda", servers=2, gpus=[3, 1])) == ["3", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6")
    assert gpus(EngineConfig(device="cuda", servers=2, gpus=[1, 2])) == ["5", "6"]


# ---- before anything starts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "device", "frozen", "said"),
    [
        ({}, "cpu", "none", "give engine.trains_vision=true"),
        ({"device": "cuda"}, "cpu", "vision", "device=cpu; give engine.sync=folder"),
        ({"device": "cuda"}, "cuda", "vision", "gives engines the same GPU"),
        ({"device": "cuda", "gpus": [1]}, "cuda:1", "vision", "name others in engine.gpus"),
        ({"sync": "ipc"}, "cpu", "vision", "give engine.colocated=true"),
        ({"device": "cuda", "colocated": True}, "cpu", "vision", "device=cuda:0 for example"),
        ({"device": "cuda", "colocated": True}, "cuda:1", "vision", "device=cuda:0 for example"),
        ({"sync": "post"}, "cpu", "vision", "sync='post' is none of"),
        ({"sync": "broadcast", "lora": LORA}, "cpu", "vision", "give engine.sync=folder, or leave"),
        (
            {"device": "cuda", "colocated": True, "sync": "ipc", "lora": LORA},
            "cuda:0",
            "vision",
            "engine.sync=ipc sends whole matrices",
        ),
    ],
)
def test_weights_that_could_not_be_handed_over(
    words: dict[str, Any], device: str, frozen: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    with pytest.raises(ConfigError) as caught:
        check_training(EngineConfig(**words), device=device, frozen=frozen)
    assert said in str(caught.value)


def test_weights_that_can_be_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    check_training(EngineConfig(trains_vision=True), device="cpu", frozen="none")
    check_training(EngineConfig(device="cuda"), device="cuda", frozen="vision", lora=LORA)
    check_training(EngineConfig(device="cuda", gpus=[1]), device="cuda", frozen="vision")
    check_training(EngineConfig(device="cuda", sync="folder"), device="cuda", frozen="vision")


def test_sequences_that_do_not_fit_are_refused(tiny: Path) -> None:
    check_lengths(EngineConfig(), tiny, 4096 - MARGIN)
    for engine, most in (
        (EngineConfig(), 4088),
        (EngineConfig(max_total_tokens=500), 492),
        (EngineConfig(context_length=99), 91),
    ):
        with pytest.raises(ConfigError, match=f"give max_length={most} or less"):
            check_lengths(engine, tiny, 4089)


def test_limits_of_a_run_are_those_of_its_engines() -> None:
    made = with_limits(EngineConfig(), width=5, max_length=100)
    assert (made.max_running, made.context_length) == (5, 100 + MARGIN)
    words = arguments(made, Path("/ckpt"), 0)
    assert words[words.index("--max-running-requests") + 1] == "5"
    own = EngineConfig(max_running=3, context_length=300)
    assert with_limits(own, width=5, max_length=100) == own


def test_folders_of_weights_are_two_and_written_once_and_kept_where_an_engine_starts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(tiny)
    loaded: list[Path] = []

    async def load(policy: SglangPolicy, folder: Path, version: int) -> None:
        loaded.append(folder)
        if version == 2 and len(loaded) == 2:
            raise PolicyFailure("engine_weights", "no engine took the new weights")

    async def play() -> None:
        monkeypatch.setattr("rl.policy.sglang.sync.update_from_folder", load)
        policy = SglangPolicy(EngineConfig(logs=str(tmp_path)), Renderer.load(tiny), tiny)
        policy.fleet._usable = {0}
        exported: list[Path] = []
        export = held.export

        def count(path: Path) -> None:
            exported.append(path)
            export(path)

        monkeypatch.setattr(held, "export", count)
        for version in (1, 2, 3):
            await policy.update_weights(held, version)
        names = [path.name for path in exported]
        assert names == ["version_000001", "version_000002", "version_000003"]
        assert [path.name for path in loaded] == [names[0], names[1], names[1], names[2]]
        assert sorted((tmp_path / "weights").iterdir()) == exported[1:]
        policy.fleet.starting[1] = exported[1]
        await policy.update_weights(held, 4)
        assert sorted((tmp_path / "weights").iterdir()) == exported[1:], "one starts from it"
        policy.fleet.starting.clear()
        await policy.update_weights(held, 5)
        assert sorted((tmp_path / "weights").iterdir()) == exported[3:]
        assert policy.figures()["engine_sync_bytes"] > 1e6
        await policy.aclose()
        assert not list((tmp_path / "weights").iterdir())

    asyncio.run(play())
