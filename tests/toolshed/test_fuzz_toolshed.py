"""A tenth of ``scripts/bench/fuzz_toolshed.py``: whatever a model sends is answered or refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bench.fuzz_toolshed import check_calls, check_parser, check_pictures, selftest
from scripts.bench.hostile_calls import broken_pictures, hostile_calls, model_outputs
from toolshed.chat import parse_calls
from toolshed.images import load_image
from toolshed.session import Session
from toolshed.shed import Toolshed


@pytest.fixture(scope="module")
def shed() -> Iterator[Toolshed]:
    with Toolshed.open("light", host="local") as opened:
        yield opened


def test_parser_takes_anything(shed: Toolshed) -> None:
    outputs = model_outputs(list(shed.tools.methods.values()), random.Random(10), 10_000)
    findings = check_parser(parse_calls, outputs)
    assert not findings.wrong and findings.num_cases == 10_000
    assert findings.num_refused > 4000, "most of it is rubbish"


def test_tools_take_anything(shed: Toolshed) -> None:
    hostile = hostile_calls(list(shed.tools.methods.values()), random.Random(11), 1000)
    findings = asyncio.run(check_calls(shed, Session.call, hostile))
    assert not findings.wrong and findings.num_cases == 1000
    assert 600 < findings.num_refused < 1000


@pytest.mark.ray
def test_tools_under_ray_take_anything(ray_cluster: str, shed: Toolshed) -> None:
    hostile = hostile_calls(list(shed.tools.methods.values()), random.Random(12), 100)
    with Toolshed.open("light", host="ray") as served:
        findings = asyncio.run(check_calls(served, Session.call, hostile))
    assert not findings.wrong and findings.num_cases == 100


def test_picture_reader_takes_anything(tmp_path: Path) -> None:
    sources = broken_pictures(tmp_path, random.Random(13), 300)
    findings = check_pictures(load_image, sources)
    assert not findings.wrong and findings.num_refused > 150


def test_each_fault_would_be_noticed() -> None:
    found = selftest(14)
    assert len(found) == 6 and all(each["wrong"] for each in found.values())
