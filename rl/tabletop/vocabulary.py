"""The tiny policy's tokenizer: bytes, plus one token for each constant piece of its world's texts.

Constant pieces never contain a slot (a name's letters, a digit), so what must be copied stays
several tokens of its own. Any other text is spelled in bytes and decodes exactly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl.tabletop import wording
from toolshed.chat import system_prompt
from toolshed.types import ToolSpec

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
NUMBERS = tuple(f"{ones}.{tenths}" for ones in range(2) for tenths in range(10))
"""Ones and tenths; hundredths are the ten digit bytes."""
OBJECTS = tuple(wording.object_of(colour) for colour in wording.COLOURS)

_FORMS = (
    "system\n",
    "user\n",
    "assistant\n",
    "<tool_response>\n",
    "\n</tool_response>",
    "<tool_call>\n",
    "\n</tool_call>",
    '{"name": "',
    '", "arguments": {',
    '", "image_index": 0}}\n</tool_call>',
    '"image_index": 0}}\n</tool_call>',
    '"obj_name": "',
    '"data": "$depth_map", "u": ',
    ', "v": ',
    "}}\n</tool_call>",
    "$depth_map",
    '{"depth": ',
    "[(",
    ", ",
    ")]",
    "}",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "not found: ",
)


def pieces(tool_sets: Sequence[Sequence[ToolSpec]]) -> list[str]:
    """Every constant piece of the demo's texts, longest first."""
    found: dict[str, None] = dict.fromkeys(_FORMS)
    found.update(dict.fromkeys(wording.NAMES + OBJECTS + NUMBERS))
    for specs in tool_sets:
        found.update(dict.fromkeys(_system_pieces(specs)))
        found.update(dict.fromkeys(_call_heads(specs)))
    found.update(dict.fromkeys(_sentence_pieces()))
    return sorted((piece for piece in found if len(piece) > 1), key=lambda piece: -len(piece))


def _system_pieces(specs: Sequence[ToolSpec]) -> list[str]:
    """The instruction, what stands before and after the schemas, and each schema's line."""
    if not specs:
        return [wording.DEMO_INSTRUCTION]
    whole = system_prompt(wording.DEMO_INSTRUCTION, specs)
    lines = [line for line in whole.split("\n") if line.startswith("{") and '"parameters"' in line]
    head, tail = whole.split(lines[0])[0], whole.rsplit(lines[-1], 1)[1]
    return [head, *lines, tail]


def _call_heads(specs: Sequence[ToolSpec]) -> list[str]:
    """A call up to its first slot; a call without slots is one piece."""
    heads = []
    for spec in specs:
        head = f'<tool_call>\n{{"name": "{spec.name}", "arguments": {{'
        heads.append(head)
        heads.append(head + '"obj_name": "')
        heads.append(head + '"image_index": 0}}\n</tool_call>')
        heads.append(head + '"data": "$depth_map", "u": ')
    return heads


def _sentence_pieces() -> list[str]:
    """Questions, orders and thoughts cut at their slots."""
    a, b, u, v = "\0", "\1", "\2", "\3"
    sentences = [
        wording.point_question(a),
        wording.depth_question(a),
        wording.leftmost_question(),
        "leftmost object",
        wording.nearer_question(a, b),
        wording.NAMING_QUESTION,
        wording.naming_reply(a).replace(wording.object_of(a), a),
        *(order.format(name=a) for order in wording.DETECT_ORDERS),
        wording.DEPTH_ORDER,
        wording.INDEX_ORDER.format(u=u, v=v),
        wording.think(wording.POINT_KNOWN),
        wording.think(wording.READ_MAP),
        wording.think(wording.leftmost_thought(a)).replace(wording.object_of(a), a),
        wording.think(wording.found_thought(a, u, b)),
        wording.think(wording.compared_thought(a, u, True)),
        wording.think(wording.compared_thought(a, u, False)),
        wording.think(wording.LOOK_AGAIN),
    ]
    cut: list[str] = []
    for sentence in sentences:
        for slot in (b, u, v):
            sentence = sentence.replace(slot, a)
        cut.extend(part for part in sentence.split(a) if part)
    return cut


def build_tokenizer(tool_sets: Sequence[Sequence[ToolSpec]]) -> Any:
    """A generic fast tokenizer (``Qwen2Tokenizer`` would put its own pre-tokenizer in place)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS])
    # Plain added tokens, not special ones: they must survive decoding as text.
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces(tool_sets)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def save_processor(tokenizer: Any, folder: Path, *, side_px: int) -> None:
    """Write tokenizer, picture processor and the full processor config that engines ask for.

    Every picture becomes ``side_px`` squared pixels or less. The video section is written as
    JSON because its class needs torchvision, which a CPU machine may lack.
    """
    from transformers import Qwen2VLImageProcessorPil

    limits = {"shortest_edge": 28 * 28, "longest_edge": side_px * side_px}
    picture = json.loads(Qwen2VLImageProcessorPil(size=limits).to_json_string())
    picture["image_processor_type"] = "Qwen2VLImageProcessor"
    video = picture | {"video_processor_type": "Qwen2VLVideoProcessor"}
    del video["image_processor_type"]
    whole = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": picture,
        "video_processor": video,
    }
    tokenizer.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(whole, indent=1))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(picture | {"processor_class": "Qwen2_5_VLProcessor"}, indent=1)
    )
