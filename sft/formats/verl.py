"""verl's dumps of rollouts and validation: what a policy was asked and what it wrote.

``input`` and ``output`` are decoded texts: with the template's tokens, or without, as verl writes
them; then each role stands alone on a line, and turns inside the output are told by the tags of
tool replies. A picture left no mark; it is put before the question, as in the released set. Which
rows are good enough says ``score_above``.
"""

from __future__ import annotations

import re

from sft.formats import sharegpt
from sft.render import IMAGE_MARK
from sft.transcript import Reading, RejectedRow, Transcript, image_at, transcript_of, turn_of
from toolshed.types import Json, Message, Role

roots = sharegpt.roots
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL)
_PICTURE = re.compile(r"(?:<\|vision_start\|>)?(?:<\|image_pad\|>)+(?:<\|vision_end\|>)?")
_END_OF_TEXT = re.compile(r"(?:<\|endoftext\|>)+\s*\Z")
_PROMPT = re.compile(
    r"\A(?:system\n(?P<system>.*?)\n)?user\n(?P<user>.*)\nassistant\s*\Z", re.DOTALL
)
_REPLIES = re.compile(
    r"\n?user\n(?P<replies>(?:<tool_response>.*?</tool_response>\s*)+)\nassistant\n", re.DOTALL
)


def fits(row: dict[str, Json]) -> bool:
    texts = isinstance(row.get("input"), str) and isinstance(row.get("output"), str)
    return texts and ("gts" in row or "score" in row)


def read(row: dict[str, Json], index: int, reading: Reading) -> Transcript:
    prompt, output = row.get("input"), row.get("output")
    if not isinstance(prompt, str) or not isinstance(output, str):
        raise RejectedRow("no input and output", "input and output are not both texts")
    listed = row.get("image", row.get("images"))
    items = listed if isinstance(listed, list) else [listed] if listed else []
    images = [image_at(item, reading.images) for item in items]
    turns = _tagged(prompt + output) if "<|im_start|>" in prompt else _plain(prompt, output)
    marks = sum(turn.num_images for turn in turns)
    if images and not marks:
        place = next(place for place, turn in enumerate(turns) if turn.role == "user")
        turns[place] = turn_of("user", IMAGE_MARK * len(images) + turns[place].text)
    named = {"task_id": row.get("uid", index), **row, "source": reading.path.stem}
    return transcript_of(named, index, reading, turns, images)


def _tagged(text: str) -> list[Message]:
    """Turns by the template's tokens."""
    text = _END_OF_TEXT.sub("", text)
    turns: list[Message] = []
    for role, said in _TURN.findall(text):
        if role not in _ROLES:
            raise RejectedRow("a turn of an unknown role", f"a turn of the {role}")
        turns.append(turn_of(_ROLES[role], _PICTURE.sub(IMAGE_MARK, said)))
    if _TURN.sub("", text).strip():
        raise RejectedRow("text outside of turns", "text stands outside of the template's turns")
    if not any(turn.role == "user" for turn in turns):
        raise RejectedRow("no question", "the input has no turn of the user")
    return turns


def _plain(prompt: str, output: str) -> list[Message]:
    """Turns of texts from which the template's tokens were left out."""
    found = _PROMPT.match(prompt)
    if found is None:
        told = "the input is none of a system, a user and the beginning of an assistant's turn"
        raise RejectedRow("an input that cannot be parted into turns", told)
    if "\nuser\n" in f"{found['system'] or ''}\n{found['user']}\n":
        told = "a line of the input is 'user', so turns cannot be told from texts"
        raise RejectedRow("an input that cannot be parted into turns", told)
    turns = [turn_of("system", found["system"])] if found["system"] is not None else []
    turns.append(turn_of("user", found["user"]))
    begin = 0
    for reply in _REPLIES.finditer(output):
        turns.append(turn_of("assistant", output[begin : reply.start()]))
        turns.append(turn_of("user", reply["replies"].rstrip()))
        begin = reply.end()
    turns.append(turn_of("assistant", output[begin:].rstrip("\n")))
    if any("\nuser\n" in turn.text or "\nassistant\n" in turn.text for turn in turns):
        told = "a line of the output is 'user' or 'assistant', so turns cannot be told from texts"
        raise RejectedRow("an output that cannot be parted into turns", told)
    return turns
