"""Transcript files: what is read, what is refused and how, and the order of a mixture."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sft.data import load_transcripts, mixture_order, to_sample
from sft.render import Renderer
from toolshed.chat import system_prompt
from toolshed.errors import ConfigError
from toolshed.types import Json, ToolSpec

TURNS: list[Json] = [
    {"from": "human", "value": "<image>Where is the red cube?"},
    {"from": "gpt", "value": "<tool_call>\n{}\n</tool_call>"},
    {"from": "observation", "value": "<tool_response>\n[(0.43, 0.57)]\n</tool_response>"},
    {"from": "gpt", "value": "<answer>[(0.43, 0.57)]</answer>"},
]


def write(folder: Path, *rows: object) -> Path:
    Image.fromarray(np.full((112, 112, 3), 77, dtype=np.uint8)).save(folder / "a.png")
    path = folder / "traces.json"
    path.write_text(json.dumps(list(rows)))
    return path


def row(**changes: object) -> dict[str, object]:
    return {"conversations": TURNS, "images": ["a.png"], "system": "Answer."} | changes


def test_both_spellings_of_tags_mean_the_same(tmp_path: Path) -> None:
    names = {"human": "user", "gpt": "assistant", "observation": "user"}
    spelt: list[Json] = []
    for turn in TURNS:
        assert isinstance(turn, dict)
        spelt.append({"role": names[str(turn["from"])], "content": turn["value"]})
    system: Json = {"role": "system", "content": "Answer."}
    path = write(tmp_path, row(), row(conversations=[system, *spelt], system="not this one"))
    first, second = load_transcripts(path)
    assert first.messages == second.messages
    assert [m.role for m in first.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [m.num_images for m in first.messages] == [0, 1, 0, 0, 0]
    assert (first.id, first.source) == ("0", "traces")


def test_image_entries_may_be_paths_structs_and_data_uris(tmp_path: Path, tiny: Path) -> None:
    import base64

    path = write(tmp_path)
    uri = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    entries = ["a.png", str(tmp_path / "a.png"), {"image": "a.png"}, uri]
    path.write_text(json.dumps([row(images=[entry]) for entry in entries]))
    renderer = Renderer.load(tiny)
    samples = [to_sample(transcript, renderer, ()) for transcript in load_transcripts(path)]
    assert len({sample.images[0].sha256 for sample in samples}) == 1


def test_a_mark_in_an_assistants_text_is_no_image(tmp_path: Path) -> None:
    turns: list[Json] = [*TURNS[:-1], {"from": "gpt", "value": "an <image> tag"}]
    assert load_transcripts(write(tmp_path, row(conversations=turns)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": []}, "1 <image> marks for 0 images"),
        ({"images": ["a.png", "a.png"]}, "1 <image> marks for 2 images"),
        ({"conversations": "hello"}, "no list of conversations"),
        ({"conversations": [{"from": "human", "value": "hi"}], "images": []}, "no assistant turn"),
        ({"conversations": [{"from": "robot", "value": "hi"}]}, "tag 'robot' needs one of system"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "needs one of .* and a text"),
        ({"conversations": ["hi"]}, "is no object"),
        ({"images": "a.png"}, "images"),
        ({"conversations": [*TURNS, TURNS[-1]]}, "of the assistant, a turn of the user must"),
        ({"conversations": [TURNS[0], TURNS[0], TURNS[1]]}, "of the user, a turn of the assistant"),
        ({"conversations": [{"from": "gpt", "value": "<|image_pad|>"}]}, "holds <.image_pad.>"),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    path = write(tmp_path, row(), row(**changes))
    with pytest.raises(ConfigError, match=f"row 1 of .*traces.json: .*{said}"):
        load_transcripts(path)


def test_files_that_are_no_transcripts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"do not exist; make them with rl\.collect"):
        load_transcripts(tmp_path / "none.json")
    for content, said in (("{]", "no JSON"), ("[]", "at least one"), ('{"a": 1}', "JSON list")):
        path = tmp_path / "bad.json"
        path.write_text(content)
        with pytest.raises(ConfigError, match=said):
            load_transcripts(path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no JSON"):
        load_transcripts(tmp_path / "binary.json")
    with pytest.raises(ConfigError, match="folder"):
        load_transcripts(tmp_path)


def test_an_unreadable_image_is_named_before_any_work(tmp_path: Path) -> None:
    missing = write(tmp_path, row(), row(images=["gone.png"]))
    with pytest.raises(ConfigError, match=r"row 1 of .*gone\.png"):
        load_transcripts(missing)
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ConfigError, match=r"row 0 of .*torn\.png"):
        load_transcripts(write(tmp_path, row(images=["torn.png"])))
    with pytest.raises(ConfigError, match="row 0"):
        load_transcripts(write(tmp_path, row(images=["data:image/png;base64,xxxx"])))


def test_a_sample_announces_the_tools_and_trains_assistant_turns_only(
    tmp_path: Path, tiny: Path, demo_specs: list[tuple[ToolSpec, ...]]
) -> None:
    renderer = Renderer.load(tiny)
    sample = to_sample(load_transcripts(write(tmp_path, row()))[0], renderer, demo_specs[1])
    text = renderer.tokenizer.decode(sample.token_ids)
    assert text.startswith(f"<|im_start|>system\n{system_prompt('Answer.', demo_specs[1])}")
    trained = [
        renderer.decode(sample.token_ids[span.start : span.end])
        for span in sample.spans
        if span.kind == "sampled"
    ]
    spoken = [str(turn["value"]) for turn in TURNS if isinstance(turn, dict)]
    assert trained == [spoken[1], spoken[3]]
    assert len(sample.images) == sample.token_ids.count(renderer.image_token) == 1


# ---- order --------------------------------------------------------------------------------------

MIXTURES = st.lists(
    st.tuples(st.integers(1, 12), st.floats(0.1, 5.0), st.integers(1, 15)), min_size=1, max_size=4
)


@given(MIXTURES, st.integers(0, 2**32), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_an_order_is_the_same_again_and_may_be_joined_anywhere(
    mixture: list[tuple[int, float, int]], seed: int, start: int
) -> None:
    sizes, weights, batches = (list(column) for column in zip(*mixture, strict=True))
    order = list(itertools.islice(mixture_order(sizes, weights, batches, seed), 60))
    resumed = itertools.islice(mixture_order(sizes, weights, batches, seed), start, 60)
    assert list(resumed) == order[start:]


@given(MIXTURES, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_each_source_is_seen_whole_before_it_repeats(
    mixture: list[tuple[int, float, int]], seed: int
) -> None:
    sizes, weights, batches = (list(column) for column in zip(*mixture, strict=True))
    drawn: list[list[int]] = [[] for _ in sizes]
    for source, indices in itertools.islice(mixture_order(sizes, weights, batches, seed), 80):
        assert len(indices) == batches[source]
        drawn[source].extend(indices)
    for size, indices in zip(sizes, drawn, strict=True):
        for start in range(0, len(indices) - size + 1, size):
            assert sorted(indices[start : start + size]) == list(range(size))


def test_weights_are_shares_of_steps() -> None:
    order = itertools.islice(mixture_order([5, 5], [3.0, 1.0], [2, 2], 1), 4000)
    share = np.mean([source == 0 for source, _ in order])
    assert share == pytest.approx(0.75, abs=0.03)
