"""scripts/bench/sft.py where it is quick: packing, padding, the account of memory, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scripts.bench import sft
from scripts.bench.sft_memory import Account, loss_memory
from scripts.bench.sft_packing import packed_max_diff, padding


def test_packed_conversations_with_pictures_learn_what_unpacked_ones_do(tiny: Path) -> None:
    assert packed_max_diff(tiny) <= sft.MOST["packed_max_diff"]
    assert packed_max_diff(tiny, handicapped=True) > 0.1


def test_padding_and_load_are_within_their_bars(tiny: Path) -> None:
    figures = padding(tiny, steps=2)
    assert all(value <= sft.MOST[name] for name, value in figures.items()), figures
    assert all(v > sft.MOST[n] for n, v in padding(tiny, steps=1, handicapped=True).items())


def test_the_loss_over_the_published_vocabulary_holds_one_chunk() -> None:
    figures = loss_memory(handicapped=True)
    assert figures["loss_memory_ratio"] <= sft.MOST["loss_memory_ratio"]
    assert figures["handicapped_loss_memory_ratio"] > 2 * sft.MOST["loss_memory_ratio"]


def test_the_account_counts_what_is_held_together() -> None:
    with Account() as account:
        first = torch.zeros(1000)
        second = first + 1
        view = second[:10]
        del first
        third = view.repeat(50)
        del second, view, third
        torch.zeros(10)
    assert (account.peak, account.held) == (8000, 0)


def test_without_a_peer_its_figure_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise RuntimeError("no network")

    monkeypatch.setattr("scripts.bench.sft_speed.peer_python", missing)
    assert sft.main(["--json", "--only", "trl"]) == sft.NOT_MEASURED
    told = capsys.readouterr()
    assert told.out == "{}\n" and "no network" in told.err
    assert "trl_sft_speedup: not measured" in told.err


def test_a_handicap_that_does_not_show_is_noticed() -> None:
    good = {"rank_imbalance": 1.01, "trl_sft_speedup": 5.0, "index_7907_rss_mb": 500.0}
    bad = {"rank_imbalance": 1.2, "trl_sft_speedup": 2.0, "index_7907_rss_mb": 900.0}
    moved = {f"handicapped_{name}": value for name, value in bad.items()}
    assert not sft._stays(good | moved)
    for name, value in good.items():
        assert sft._stays(good | moved | {f"handicapped_{name}": value})
