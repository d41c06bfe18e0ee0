from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.model import load_model
from sft.render import Renderer
from toolshed.chat import system_prompt
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import Message, ToolImage, ToolSpec


def picture(seed: int, height: int = 224, width: int = 224) -> ToolImage:
    rng = np.random.default_rng(seed)
    return make_image(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def renderer(tiny: Path) -> Renderer:
    return Renderer.load(tiny)


CONVERSATION = (
    Message(role="system", text="Answer the question about the picture."),
    Message(role="user", text="<image>Where is the red cube?", num_images=1),
    Message(role="assistant", text="<think>hm</think><answer>[(0.43, 0.57)]</answer>"),
    Message(role="user", text="<tool_response>\n<image>\n</tool_response>", num_images=1),
    Message(role="assistant", text="done"),
)


def test_rendering_a_conversation_equals_building_it_turn_by_turn(renderer: Renderer) -> None:
    whole = renderer.render(CONVERSATION)
    ids = list(renderer.prompt(CONVERSATION[:2]))
    ids += [*renderer.encode(CONVERSATION[2].text), renderer.end_of_turn]
    ids += renderer.reply(CONVERSATION[3])
    ids += [*renderer.encode(CONVERSATION[4].text), renderer.end_of_turn]
    assert whole.token_ids == ids
    assert [span.kind for span in whole.spans] == ["prompt", "sampled", "reply", "sampled"]


def test_the_ids_equal_those_of_the_chat_text_as_one_string(renderer: Renderer) -> None:
    text = ""
    for message in CONVERSATION:
        body = message.text
        if message.num_images:
            body = body.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
        text += f"<|im_start|>{message.role}\n{body}<|im_end|>\n"
    assert renderer.render(CONVERSATION).token_ids == list(renderer.encode(text[:-1]))


def test_only_assistant_tokens_are_sampled(renderer: Renderer) -> None:
    rendering = renderer.render(CONVERSATION)
    spoken = [
        renderer.decode(rendering.token_ids[span.start : span.end])
        for span in rendering.spans
        if span.kind == "sampled"
    ]
    assert spoken == [CONVERSATION[2].text, CONVERSATION[4].text]


@given(st.text(max_size=80))
@settings(max_examples=60, deadline=None)
def test_text_survives_the_tokenizer(tiny: Path, text: str) -> None:
    renderer = _cached(tiny)
    if "<|" in text:
        return
    assert renderer.decode(renderer.encode(text)) == text


_RENDERERS: dict[Path, Renderer] = {}


def _cached(tiny: Path) -> Renderer:
    return _RENDERERS.setdefault(tiny, Renderer.load(tiny))


def test_constant_pieces_are_single_tokens_and_slots_are_not(
    renderer: Renderer, demo_specs: list[tuple[ToolSpec, ...]]
) -> None:
    system = renderer.encode(system_prompt("Answer the question about the picture.", demo_specs[1]))
    assert len(system) < 12
    assert len(renderer.encode("0.43")) == 2
    assert len(renderer.encode("red cube")) == 1


def test_reloading_through_autotokenizer_keeps_the_ids(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    first = Renderer.load(tiny)
    first.tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert type(again).__name__ != "Qwen2Tokenizer"
    text = '<tool_call>\n{"name": "roborefer.detect_one", "arguments": {"obj_name": "red cube"'
    assert again.encode(text, add_special_tokens=False) == list(first.encode(text))


def test_the_processor_config_is_whole_for_other_engines(tiny: Path) -> None:
    import json

    whole = json.loads((tiny / "processor_config.json").read_text())
    assert whole["processor_class"] == "Qwen2_5_VLProcessor"
    assert {"image_processor", "video_processor"} <= set(whole)


@pytest.mark.parametrize("sizes", [[(224, 224)], [(224, 224), (140, 280)], [(60, 400), (28, 28)]])
def test_positions_and_image_tokens_equal_those_of_transformers(
    tiny: Path, renderer: Renderer, sizes: list[tuple[int, int]]
) -> None:
    model = load_model(tiny)
    images = [picture(i, *size) for i, size in enumerate(sizes)]
    text = "ab" + "".join("<|vision_start|><|image_pad|><|vision_end|>cd" for _ in images)
    expanded = renderer.expand(renderer.encode(text), images)
    grids = torch.tensor([renderer.vision(image).grid for image in images])
    ids = torch.from_numpy(expanded.token_ids)[None]
    kinds = (ids == renderer.image_token).int()
    assert int(kinds.sum()) == sum(renderer.vision(image).num_tokens for image in images)
    reference, _ = model.model.get_rope_index(ids, kinds, image_grid_thw=grids)  # type: ignore[union-attr, operator]
    assert np.array_equal(expanded.positions, reference[:, 0].numpy())


def test_a_pre_resized_picture_passes_the_processor_unchanged(renderer: Renderer) -> None:
    small = picture(3, 112, 112)
    assert renderer.vision(small).grid == (1, 8, 8)
    assert renderer.vision(picture(3, 1000, 1000)).grid == (1, 8, 8)


def test_a_wrong_number_of_image_marks_is_an_error(renderer: Renderer) -> None:
    with pytest.raises(ConfigError, match="announces 1 images but holds 0"):
        renderer.prompt([Message(role="user", text="no picture", num_images=1)])


def test_patches_are_kept_by_their_bytes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Renderer.load(tiny).vision(picture(0)).patches.nbytes
    monkeypatch.setattr("sft.render.PATCH_BYTES", 3 * one)
    renderer = Renderer.load(tiny)
    for seed in range(8):
        renderer.vision(picture(seed))
    kept = renderer.vision(picture(7))
    assert renderer.vision(picture(7)) is kept
    assert renderer._visions.num_bytes == 3 * one
