"""Configs: what words do, and what is said of those that are wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sft.config import help_text, load_config, to_yaml
from toolshed.errors import ConfigError


@dataclass
class Part:
    path: str = ""
    weight: float = 1.0


@dataclass
class Phase:
    steps: int = 0
    mixture: dict[str, float] = field(default_factory=dict)


@dataclass
class Whole:
    out: str = ""
    steps: int = 3
    names: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    naming: Phase = field(default_factory=Phase)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "whole.yaml"
    file.write_text(
        "defaults: [schema, _self_]\nout: x\n"
        "naming: {steps: 4, mixture: {naming: 0.4, order: 0.6}}\n"
    )
    return file


def load(path: Path, *words: str) -> Whole:
    loaded: Whole = load_config(Whole, "sft", str(path), words)
    return loaded


def test_words_beat_the_file_which_beats_the_dataclass(path: Path) -> None:
    assert load(path) == Whole(
        out="x", naming=Phase(steps=4, mixture={"naming": 0.4, "order": 0.6})
    )
    config = load(path, "steps=7", "out=y", "names=[a,b]", "parts=[{path: p}]", "naming.steps=1")
    assert (config.steps, config.out, config.names) == (7, "y", ["a", "b"])
    assert config.parts == [Part(path="p")] and config.naming.steps == 1


def test_a_word_for_a_mapping_replaces_it_and_one_for_an_entry_sets_it(path: Path) -> None:
    assert load(path, "naming.mixture={naming: 0.4}").naming.mixture == {"naming": 0.4}
    assert load(path, "naming.mixture={fresh: 1}").naming.mixture == {"fresh": 1.0}
    entry = load(path, "naming.mixture.fresh=1", "naming.mixture.order=0.5").naming.mixture
    assert entry == {"naming": 0.4, "order": 0.5, "fresh": 1.0}


def test_the_resolved_config_is_a_config_again(path: Path) -> None:
    config = load(path, "naming.mixture={a: 1.5}", "parts=[{path: p}]")
    again = path.with_name("again.yaml")
    again.write_text("defaults: [schema, _self_]\n" + to_yaml(config))
    assert load(again) == config


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("step=3", "unknown config key 'step' in whole.yaml or the command; did you mean steps"),
        ("naming.mixtur=3", "'naming.mixtur' .* did you mean naming.mixture"),
        ("namin.steps=3", "'namin.steps' .* did you mean naming.steps"),
        ("mixture=3", "'mixture' .*; mixture is naming.mixture"),
        (
            "naming=3",
            r"naming holds steps, mixture: write naming=\{steps: \.\.\.\}, not",
        ),
        ("parts=[{path: a, weigth: 2}]", "'weigth' .* did you mean parts\\[\\].weight"),
        ("xyzzy=1", "unknown config key 'xyzzy' .* --help lists every key"),
        ("steps=many", "steps: .*'many'.*whole.yaml"),
        ("naming.mixture={naming: much}", "'much'"),
        ("naming.mixture=3", "naming.mixture holds a mapping: write .*, not '3'"),
        ("parts=a.json", r"parts holds a list: write 'parts=\[\{path: a.json\}\]', not 'parts=a"),
        ("names=a", r"names holds a list: write 'names=\[a\]', not 'names=a'"),
        ("nothing", "'nothing' is no key=value word"),
        ("+fresh=1", "is no key=value word"),
        ("~steps=1", "is no key=value word"),
        ("out=a=b", "'out=a=b' cannot be read; .* quotes"),
    ],
)
def test_a_wrong_word_is_named_with_the_remedy(path: Path, word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(path, word)


def test_a_wrong_key_in_the_file_is_named_as_well(path: Path) -> None:
    path.write_text("defaults: [schema, _self_]\noutt: x\n")
    with pytest.raises(ConfigError, match=r"'outt' in whole.yaml .* did you mean out"):
        load(path)
    path.write_text("defaults: [schema, _self_]\nnaming: 3\n")
    with pytest.raises(ConfigError, match=r"^naming holds steps, mixture: .* in whole.yaml"):
        load(path)
    path.write_text("defaults: [schema, _self_]\nout: [x\n")
    with pytest.raises(ConfigError, match=r"whole\.yaml"):
        load(path)


def test_an_unknown_config_names_those_that_there_are(tmp_path: Path) -> None:
    from rl.collect import CollectConfig
    from rl.tiny import TinyConfig

    with pytest.raises(ConfigError, match=r"no config 'dem' in configs/sft .* did you mean demo"):
        load_config(Whole, "sft", "dem", [])
    with pytest.raises(ConfigError, match=r"\(there is collect, collect_api, collect_demo\)"):
        load_config(CollectConfig, "rl", "x", [])
    with pytest.raises(ConfigError, match=r"\(there is tiny\)"):
        load_config(TinyConfig, "rl", "x", [])
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Whole, "sft", str(tmp_path / "none.yaml"), [])


@pytest.mark.parametrize(
    "module", ["sft.train", "rl.train", "rl.mock", "rl.tiny", "rl.collect", "eval.run"]
)
def test_no_option_may_be_cut_short(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(module).main
    with pytest.raises(SystemExit):
        main(["demo", "a", "b", "--hel"])
    with pytest.raises(SystemExit):
        main([])
    told = capsys.readouterr().err
    assert "--hel" in told and "key=value" not in told.rpartition("required")[2]


def test_help_lists_every_key() -> None:
    assert help_text(Whole).split() == [
        "out=", "steps=3", "names=[]", "parts=[]", "naming.steps=0", "naming.mixture={}"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "module", ["sft.train", "rl.train", "rl.mock", "rl.replay", "rl.collect", "eval.run"]
)
def test_asking_for_help_does_not_load_torch(module: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'ray', 'mujoco'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "=" in done.stdout
