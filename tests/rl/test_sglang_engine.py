"""The real engine: its prompts and log-probs are the learner's, weights change while it works."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from rl.policy.sglang import requests
from rl.policy.sglang.broadcast import Broadcast
from rl.policy.sglang.names import for_loader
from rl.policy.sglang.policy import BANNED_BIAS
from rl.policy.sglang.requests import Abort, EngineSampling, Generate
from rl.policy.sglang.weights import held_tensors, update_from_folder
from rl.types import SamplingParams
from sft.checkpoint import SCHEMA_FILE
from tests.rl.engine_checks import check_held, checksums
from tests.rl.engines import TURNS, Engines, Held, difference, greedy, prompt_for
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rollouts_with_pictures_from_tools_agree_with_the_learner(
    engines: Engines, temperature: float
) -> None:
    policy = engines.begin()
    sampling = SamplingParams(max_tokens=100, temperature=temperature)
    played = engines.play(12, sampling)
    assert not any(each.failure for each in played)
    assert sum(len(each.images) > 1 for each in played) >= 4, "tools returned pictures"
    assert max(len(each.turns) for each in played) >= 3
    # Every prompt that the engine used was compared with ours, id by id.
    num_turns = sum(len(each.turns) for each in played)
    assert policy.counts["checked_prompts"] == policy.counts["requests"] == num_turns
    assert difference(engines.first, played, temperature) <= 1e-4
    for each in played:
        for turn in each.turns:
            assert set(turn.completion.versions) == {policy.version}


def test_what_was_sent_before_is_in_the_engines_cache(engines: Engines) -> None:
    policy = engines.begin()
    played = engines.play(1, SamplingParams(max_tokens=100, temperature=0.0))
    assert [turn.completion.text for turn in played[0].turns] == list(TURNS)
    figures = policy.figures()
    # The first prompt is new, each later one but for its reply was there already.
    assert figures["engine_cached_share"] > 0.5
    distinct = {image.sha256 for image in played[0].images}
    assert len(distinct) == 3 <= policy.pictures.num_written


def test_the_engine_started_from_a_checkpoint_of_sft_train(engines: Engines) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    folder, tools = engines.first, ToolSet.named("light", ["roborefer.detect_one"])
    assert folder.name == "final" and (folder.parent / "metrics.jsonl").is_file()
    assert len(AutoTokenizer.from_pretrained(folder)) > 0
    assert {"preprocessor_config.json", "processor_config.json"} <= set(os.listdir(folder))
    assert AutoModelForImageTextToText.from_pretrained(folder).num_parameters() > 1e6
    record = json.loads((folder / SCHEMA_FILE).read_text())
    assert record == {"hash": tools.schema_hash, "schema": tools.schema_text}


def test_greedy_turns_are_the_learners(engines: Engines) -> None:
    policy = engines.begin()
    prompt = prompt_for(engines.renderer, "greedy")
    said = engines.run(policy.generate(prompt, SamplingParams(temperature=0.0, max_tokens=30)))
    assert list(said.token_ids) == greedy(engines.first, prompt, 30)


def test_a_turn_ends_at_its_end_or_at_its_limit(engines: Engines) -> None:
    policy = engines.begin()
    prompt = prompt_for(engines.renderer, "limits")
    short = engines.run(policy.generate(prompt, SamplingParams(temperature=0.0, max_tokens=3)))
    assert short.finish == "length" and len(short.token_ids) == 3
    whole = engines.run(policy.generate(prompt, SamplingParams(temperature=0.0, max_tokens=300)))
    assert whole.finish == "stop" and whole.token_ids[-1] == engines.renderer.end_of_turn
    assert whole.token_ids[:3] == short.token_ids
    assert len(whole.logprobs) == len(whole.versions) == len(whole.token_ids)


def test_tokens_of_pictures_are_never_sampled(engines: Engines) -> None:
    policy = engines.begin()
    sampling = SamplingParams(temperature=8.0, max_tokens=120)
    prompts = [prompt_for(engines.renderer, f"hot{i}") for i in range(8)]

    async def play() -> list[Any]:
        return await asyncio.gather(*(policy.generate(each, sampling) for each in prompts))

    for each in engines.run(play()):
        assert not set(each.token_ids) & set(engines.renderer.banned_tokens)
        assert min(each.logprobs) > -100


# ---- requests -----------------------------------------------------------------------------------


def test_every_field_that_is_sent_is_one_that_the_engine_knows(engines: Engines) -> None:
    address = engines.policy.fleet.servers[0].address
    with urllib.request.urlopen(f"{address}/openapi.json") as answer:
        told = json.load(answer)
    kinds = [each for each in requests.EngineRequest.__subclasses__() if hasattr(each, "path")]
    assert len(kinds) >= 10
    for kind in kinds:
        schema = told["paths"][kind.path]["post"]["requestBody"]["content"]["application/json"]
        name = next(iter(_references(schema["schema"])))
        known = set(told["components"]["schemas"][name]["properties"])
        ours = {field.name for field in fields(kind)}
        assert ours <= known, (kind.path, ours - known)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if "$ref" in schema else []
        return own + [name for each in schema.values() for name in _references(each)]
    return (
        [name for each in schema for name in _references(each)] if isinstance(schema, list) else []
    )


def test_fields_of_sampling_that_the_engine_does_not_know_are_refused(engines: Engines) -> None:
    server = engines.policy.fleet.servers[0]

    class Misspelt(EngineSampling):
        """A field that no engine has."""

    sampling = EngineSampling(
        max_new_tokens=1, temperature=1.0, stop_token_ids=(1,), logit_bias={"2": -1.0}
    )
    good = Generate(rid="x", input_ids=(5, 6), image_data=None, sampling_params=sampling)
    body = good.body()
    assert isinstance(body["sampling_params"], dict)
    known = set(body["sampling_params"])
    told = engines.run(_refusal(server, body | {"sampling_params": {"max_new_token": 3}}))
    named = {word.strip("`, ") for word in told.partition("expected one of")[2].split()}
    assert "unknown field `max_new_token`" in told
    assert known | {"sampling_seed"} <= {word.rstrip('"}').strip("`") for word in named}


async def _refusal(server: Any, body: Any) -> str:
    status, text = await server._exchange("POST", "/generate", body)
    assert status == 400
    return str(text)


def test_a_prompt_that_is_too_long_is_the_users_to_mend(engines: Engines) -> None:
    policy = engines.begin()
    prompt = prompt_for(engines.renderer, "long")
    long = replace(prompt, token_ids=(*prompt.token_ids, *[65] * 6000))
    with pytest.raises(ConfigError, match="refuses /generate"):
        engines.run(policy.generate(long, SamplingParams(max_tokens=10)))


# ---- interruptions ------------------------------------------------------------------------------


def test_an_aborted_completion_goes_on_from_what_was_sampled(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = engines.begin()
    # So that no turn ends before it is aborted.
    monkeypatch.setitem(policy._bias, str(engines.renderer.end_of_turn), BANNED_BIAS)
    prompt = prompt_for(engines.renderer, "aborted")
    hot = SamplingParams(temperature=8.0, max_tokens=300)

    async def play() -> Any:
        turn = asyncio.ensure_future(policy.generate(prompt, hot))
        for _ in range(3):
            await asyncio.sleep(0.4)
            await policy.fleet.servers[0].post(Abort(abort_all=True))
        return await turn

    said = engines.run(play())
    assert policy.counts["continued"] >= 1
    assert len(said.logprobs) == len(said.versions) == len(said.token_ids) > 60
    assert policy.counts["checked_prompts"] == policy.counts["requests"] >= 2


def test_a_rollout_that_nobody_waits_for_ends_in_the_engine_too(engines: Engines) -> None:
    policy = engines.begin()

    async def play() -> None:
        prompt = prompt_for(engines.renderer, "forgotten")
        hot = SamplingParams(temperature=8.0, max_tokens=2000)
        turn = asyncio.ensure_future(policy.generate(prompt, hot))
        await asyncio.sleep(0.5)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)
        await asyncio.gather(*policy._aborts)

    engines.run(play())
    assert not policy._aborts


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["gloo", "disk"])
def test_weights_change_while_requests_with_pictures_run(engines: Engines, way: str) -> None:
    policy = engines.begin()
    before = policy.version
    held = Held(engines.second)
    sender = Broadcast(policy.fleet, "gloo", bucket_bytes=1 << 20)
    prompts = [prompt_for(engines.renderer, f"{way}{i}") for i in range(8)]
    hot = SamplingParams(temperature=8.0, max_tokens=400)

    async def play() -> list[Any]:
        turns = [asyncio.ensure_future(policy.generate(each, hot)) for each in prompts]
        await asyncio.sleep(0.6)
        if way == "gloo":
            await sender.update(held, before + 1)
        else:
            await update_from_folder(policy.fleet, engines.second, before + 1)
        return await asyncio.gather(*turns)

    try:
        said = engines.run(play())
        for each in said:
            # Those that ended early were over before the update.
            assert set(each.versions) <= {before, before + 1} and each.version == before
            assert list(each.versions) == sorted(each.versions)
            assert len(each.versions) == len(each.logprobs) == len(each.token_ids)
        assert sum(set(each.versions) == {before, before + 1} for each in said) >= 3
        assert policy.version == before + 1
        assert engines.run(check_held(policy, for_loader(held.trained()))) > 20
        after = prompt_for(engines.renderer, f"{way} after")
        calm = engines.run(policy.generate(after, SamplingParams(temperature=0.0, max_tokens=30)))
        assert list(calm.token_ids) == greedy(engines.second, after, 30)
        played = engines.play(4, SamplingParams(max_tokens=100))
        assert difference(engines.second, played, 1.0) <= 1e-4
        # A second update through the same group.
        if way == "gloo":
            engines.run(sender.update(held, before + 2))
            trained = sum(each.nbytes for each in held.trained().values())
            assert sender.num_bytes == trained, "trainable tensors alone, each once"
    finally:
        engines.run(sender.aclose())


def test_a_tensor_that_the_engine_would_skip_is_an_error(engines: Engines) -> None:
    policy = engines.begin()
    held = Held(engines.second)
    held.model.model.language_model.layers[0].mlp.register_parameter(
        "extra", torch.nn.Parameter(torch.zeros(2))
    )
    with pytest.raises(ConfigError, match=r"skip 1 tensors .*model\.layers\.0\.mlp\.extra first"):
        engines.run(Broadcast(policy.fleet, "gloo").update(held, 9))
    held = Held(engines.second, frozen="none")
    with pytest.raises(ConfigError, match=r"give engine\.trains_vision=true"):
        engines.run(Broadcast(policy.fleet, "gloo").update(held, 9))


def test_every_tensor_of_the_engine_has_one_of_ours(engines: Engines) -> None:
    policy = engines.begin()
    held = engines.run(held_tensors(policy.fleet.servers[0]))
    whole = for_loader(Held(engines.first, frozen="none").trained())
    ours = checksums(whole, torch.float32)
    assert {name for name in held if "axis_map" not in name} == set(ours)
    assert all(held[name] == told for name, told in ours.items())
    other = for_loader(Held(engines.second).trained())
    with pytest.raises(AssertionError, match="tensors of other values"):
        engines.run(check_held(policy, other))
