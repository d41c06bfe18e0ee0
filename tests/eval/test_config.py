"""Which settings of an evaluation bind the folder of its rows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from eval.config import FREE_KEYS, EvalConfig, check_same_settings
from rl.policy.api_config import ApiConfig
from sft.config import load_config, to_yaml
from toolshed.errors import ConfigError

OTHER = {
    "policy": "sglang",
    "tools.config": "light",
    "tools.show": "[roborefer.detect_one]",
    "temperature": "0.5",
    "seed": "3",
    "reward": "demo",
    "max_turns": "3",
    "max_calls": "2",
    "max_reply_chars": "9",
    "max_pixels": "784",
    "max_tokens": "100",
    "max_turn_tokens": "30",
    "max_length": "300",
    "device": "cuda",
    "dtype": "bfloat16",
    "api.model": "toy",
    "api.provider": "anthropic",
    "api.base_url": "'http://127.0.0.1:30000/v1'",
    "api.calls": "text",
    "api.image_format": "jpeg",
    "engine.context_length": "4096",
    "engine.environment": "other",
}
FREE = {
    "tools.schema": "any",
    "data": "somewhere",
    "cache": "there",
    "out": "elsewhere",
    "limit": "3",
    "greedy": "false",
    "draws": "4",
    "repeats": "2",
    "ray_address": "127.0.0.1:6379",
    "retries": "0",
    "max_infrastructure": "0.5",
    "max_phantom": "0.5",
    "max_empty": "0.5",
    "show_poisoned": "true",
    "width": "2",
    "threads": "2",
    "devices": "2",
    "max_failures": "0.5",
    "keep_pictures": "0",
    "api.key_variable": "OTHER_KEY",
    "api.timeout_s": "9",
    "api.connect_timeout_s": "9",
    "api.retries": "9",
    "api.backoff_s": "9",
    "api.longest_wait_s": "9",
    "api.requests_per_minute": "9",
    "api.concurrent": "9",
    "api.cost_limit_usd": "9",
    "api.prices": "[1,2,3]",
    "api.raw_dir": "raw",
    "engine.gpus": "[0]",
    "engine.memory_share": "0.2",
    "engine.max_total_tokens": "9",
    "engine.max_running": "9",
    "engine.pictures": "inline",
    "engine.checked_prompts": "0.5",
    "engine.logs": "there",
    "engine.start_timeout_s": "9",
    "engine.health_every_s": "9",
    "engine.patience_s": "9",
    "engine.restarts": "9",
    "engine.retries": "9",
}


def config_of(key: str, value: str) -> EvalConfig:
    """The defaults and one word."""
    with TemporaryDirectory() as folder:
        blank = Path(folder) / "blank.yaml"
        blank.write_text("defaults: [schema, _self_]\n")
        return load_config(EvalConfig, "eval", str(blank), [f"{key}={value}"])


@pytest.fixture
def asked_before(tmp_path: Path) -> Path:
    """A folder with a row that was asked with the defaults."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "tabletop-point.jsonl").write_text("a row\n")
    (tmp_path / "config.yaml").write_text(to_yaml(EvalConfig()))
    return tmp_path


def test_every_key_is_either_free_or_not() -> None:
    from dataclasses import fields

    assert set(FREE) == set(FREE_KEYS)
    keys = {key.partition(".")[0] for key in (*OTHER, *FREE)}
    assert keys == {field.name for field in fields(EvalConfig)}
    api = {key.partition(".")[2] for key in (*OTHER, *FREE) if key.startswith("api.")}
    assert api == {field.name for field in fields(ApiConfig)}


@pytest.mark.parametrize("key", OTHER)
def test_a_folder_of_other_settings_is_refused(asked_before: Path, key: str) -> None:
    other = config_of(key, OTHER[key])
    with pytest.raises(ConfigError, match=rf"{key}=.* there, {key}=.* now.*another out="):
        check_same_settings(asked_before, other)


@pytest.mark.parametrize("key", FREE)
def test_settings_that_change_no_answer_may_differ(asked_before: Path, key: str) -> None:
    check_same_settings(asked_before, config_of(key, FREE[key]))


def test_a_folder_without_rows_binds_nobody(asked_before: Path) -> None:
    (asked_before / "rows" / "tabletop-point.jsonl").write_text("")
    check_same_settings(asked_before, config_of("seed", "3"))


def test_rows_of_unknown_settings_are_refused(asked_before: Path) -> None:
    (asked_before / "config.yaml").write_text("- no\n- mapping\n")
    with pytest.raises(ConfigError, match=r"no config of eval\.run"):
        check_same_settings(asked_before, EvalConfig())
    (asked_before / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        check_same_settings(asked_before, EvalConfig())


def test_keys_newer_than_the_folder_count_as_their_defaults(asked_before: Path) -> None:
    text = to_yaml(EvalConfig())
    (asked_before / "config.yaml").write_text(text.replace("max_calls: 8\n", ""))
    check_same_settings(asked_before, EvalConfig())
    with pytest.raises(ConfigError, match="max_calls=8 there, max_calls=2 now"):
        check_same_settings(asked_before, config_of("max_calls", "2"))
