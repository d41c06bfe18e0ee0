"""Episodes to look at: each call's picture with what the tool saw drawn on it, thoughts, replies.

Works on Episodes, so on fresh trajectories and on saved rows alike, and makes an HTML fragment, a
PNG sheet or plain text. Pictures come from an Album; one that cannot be found is left out.
"""

from __future__ import annotations

import base64
import io
import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rl.show.episode import CallRecord, Drawing, Episode, Picture, TurnRecord, value_of
from sft.run_dir import draft_file
from toolshed.draw import draw
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, load_image, make_image
from toolshed.types import Json, ToolImage

SHOWN_PX = 448
"""Longest side at which a picture is drawn and shown; smaller ones are enlarged first."""
JPEG_QUALITY = 74


class Album:
    """Pictures by hash, found in memory or read from their files once."""

    def __init__(self, images: Iterable[ToolImage] = (), *, root: Path | None = None) -> None:
        self._images = {image.sha256: image for image in images}
        self._root = root

    def add(self, image: ToolImage) -> None:
        self._images[image.sha256] = image

    def find(self, picture: Picture) -> ToolImage | None:
        """The picture, None if it is neither known nor readable."""
        if picture.sha256 not in self._images:
            for place in self._places(picture):
                if place.is_file():
                    try:
                        found = load_image(ImageSource(image=str(place)))
                    except ConfigError:
                        return None
                    self._images[picture.sha256] = found
                    break
        return self._images.get(picture.sha256)

    def _places(self, picture: Picture) -> list[Path]:
        places = [Path(picture.location)] if picture.location else []
        if self._root is not None:
            places += [self._root / picture_name(picture.sha256)]
            if picture.location:
                places.append(self._root / picture.location)
        return places


def picture_name(sha256: str) -> str:
    """File name of a kept picture."""
    return f"{sha256[:20]}.jpg"


def keep_picture(image: ToolImage, folder: Path, *, longest_px: int = 2 * SHOWN_PX) -> None:
    """Write a picture that has no file of its own, reduced for looking at."""
    path = folder / picture_name(image.sha256)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.pixels)
        picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
        with draft_file(path) as draft:
            picture.save(draft, format="JPEG", quality=90)


# ---- pictures -------------------------------------------------------------------------------


def enlarged(image: ToolImage) -> ToolImage:
    """The picture with its longest side at SHOWN_PX."""
    scale = SHOWN_PX / max(image.width, image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = Image.fromarray(image.pixels).resize(size, Image.Resampling.LANCZOS)
    return make_image(np.asarray(picture, dtype=np.uint8))


def drawn(image: ToolImage, drawing: Drawing | None) -> Image.Image:
    """The picture at its shown size with a tool's result on it."""
    shown = enlarged(image)
    value = value_of(drawing, (shown.height, shown.width)) if drawing is not None else None
    return Image.fromarray(shown.pixels) if value is None else draw(shown, value)


def answered(image: ToolImage, episode: Episode) -> Image.Image | None:
    """The question's picture with the answered points over the region that was asked for;
    None where question and answer are no points."""
    pairs = re.findall(r"[(\[]\s*([0-9.]+)\s*,\s*([0-9.]+)\s*[)\]]", episode.answer or "")
    if not pairs:
        return None
    points = tuple((float(u), float(v)) for u, v in pairs)
    region = _region(episode.target)
    if region is None:
        return drawn(image, Drawing(shape="points", points=points))
    return drawn(image, Drawing(shape="mask", raster=region, points=points))


def _region(target: Json) -> str | None:
    """A target that is a PNG mask in base64."""
    found = isinstance(target, str) and len(target) > 100 and target.startswith("iVBOR")
    return target if found and isinstance(target, str) else None


def data_uri(picture: Image.Image, *, quality: int = JPEG_QUALITY) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# ---- words ----------------------------------------------------------------------------------


_ENDINGS = {
    "answered": "the last turn holds no <answer>",
    "max_turns": "the limit of turns was reached",
    "max_tokens": "the limit of tokens was reached",
    "tool_failure": "a tool broke",
}
"""Stop reasons in words."""


def thoughts(turn: TurnRecord) -> str:
    """What a turn says besides its calls and its answer."""
    text = re.sub(r"<tool_call>.*?(</tool_call>|$)", " ", turn.text, flags=re.DOTALL)
    text = re.sub(r"<answer>.*?(</answer>|$)", " ", text, flags=re.DOTALL)
    text = re.sub(r"<\|[^|<>]*\|>|</?think>", " ", text)
    return " ".join(text.split())


def call_words(call: CallRecord) -> str:
    """A call as a line of code."""
    arguments = ", ".join(f"{name}={_literal(value)}" for name, value in call.arguments.items())
    return f"{call.name}({arguments})"


def answer_words(episode: Episode) -> str:
    """The answer as given, or that none was and why the episode ended."""
    if episode.answer is not None:
        return episode.answer
    why = _ENDINGS.get(episode.stop_reason, episode.stop_reason)
    return f"(none: {why})" if why else "(none)"


def target_words(episode: Episode) -> str:
    """The right answer; a mask is a region of the picture."""
    target = episode.target
    if target is None:
        return "not known"
    if _region(target) is not None:
        return "inside the marked region"
    words = target if isinstance(target, str) else json.dumps(target)
    return words if len(words) <= 120 else words[:117] + "..."


def outcome(episode: Episode) -> str:
    """``right``, ``wrong``, ``partly``, ``unscored`` (just asked) or ``failed`` (our machinery)."""
    if episode.failure:
        return "failed"
    if episode.accuracy is None:
        return "unscored"
    if episode.accuracy >= 1.0:
        return "right"
    return "partly" if episode.accuracy > 0 else "wrong"


def episode_text(episode: Episode) -> str:
    """The episode for a terminal."""
    lines = [f"question  {episode.question}"]
    for turn in episode.turns:
        if thoughts(turn):
            lines.append(f"thinks    {thoughts(turn)}")
        for call in turn.calls:
            lines.append(f"calls     {call_words(call)}")
            status = "" if call.status == "ok" else f"[{call.status}] "
            lines.append(f"  reads   {status}{call.reply}")
        lines += [f"  reads   {error}" for error in turn.errors]
    lines.append(f"answer    {answer_words(episode)}")
    if episode.target is not None:
        lines.append(f"target    {target_words(episode)}")
    if episode.failure:
        lines.append(f"failed    {episode.failure}")
    elif episode.reward is not None:
        lines.append(f"reward    {episode.reward:.2f} ({outcome(episode)})")
    return "\n".join(lines)


def _literal(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---- steps: what every rendering shows, in order ----------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One picture with its words."""

    title: str
    thought: str = ""
    code: str = ""
    reply: str = ""
    status: str = ""
    picture: Image.Image | None = field(default=None, repr=False)


def steps(episode: Episode, album: Album) -> list[Step]:
    """The look at the picture, one step per call, the answer."""
    told = [_look(episode, album)]
    for turn in episode.turns:
        told += _turn_steps(turn, episode, album)
    first = album.find(episode.pictures[0]) if episode.pictures else None
    told.append(
        Step(
            title="Answer",
            thought=thoughts(episode.turns[-1]) if episode.turns else "",
            code=answer_words(episode),
            reply=target_words(episode),
            status=outcome(episode),
            picture=answered(first, episode) if first else None,
        )
    )
    return told


def _look(episode: Episode, album: Album) -> Step:
    swapped = episode.prompt_picture is not None
    picture = episode.prompt_picture or (episode.pictures[0] if episode.pictures else None)
    image = album.find(picture) if picture else None
    return Step(
        title="Sees another scene's picture" if swapped else "Sees",
        picture=drawn(image, None) if image else None,
    )


def _turn_steps(turn: TurnRecord, episode: Episode, album: Album) -> list[Step]:
    told = []
    for call in turn.calls:
        image = album.find(episode.pictures[call.image]) if episode.pictures else None
        told.append(
            Step(
                title="Calls",
                code=call_words(call),
                reply=call.reply,
                status=call.status,
                picture=drawn(image, call.drawing) if image else None,
            )
        )
    told += [Step(title="Miswrites a call", reply=text, status="refused") for text in turn.errors]
    if told:
        told[0] = replace(told[0], thought=thoughts(turn))
    elif turn is not episode.turns[-1]:
        told.append(Step(title="Says", thought=thoughts(turn)))
    return told


# ---- HTML -----------------------------------------------------------------------------------


def episode_html(episode: Episode, album: Album) -> str:
    """The steps of an episode as an HTML fragment: an ordered list, styled by the page."""
    told = steps(episode, album)
    return '<ol class="steps">' + "".join(_step_html(step) for step in told) + "</ol>"


def _step_html(step: Step) -> str:
    is_answer = step.title == "Answer"
    parts = [f'<li class="step{" step-answer" if is_answer else ""} is-{step.status or "none"}">']
    if step.picture is not None:
        width, height = step.picture.size
        parts.append(
            f'<img src="{data_uri(step.picture)}" width="{width}" height="{height}" '
            f'alt="{escape(_alt(step))}" loading="lazy" decoding="async">'
        )
    parts.append(f'<div class="words"><p class="what">{escape(step.title)}</p>')
    if step.thought:
        parts.append(f'<p class="thought">{escape(step.thought)}</p>')
    if step.code:
        parts.append(f'<p class="code"><code>{_breakable(step.code)}</code></p>')
    if is_answer:
        verdict = f'<span class="verdict">{step.status}</span>'
        parts.append(f'<p class="reply">{verdict} · target: {escape(step.reply)}</p>')
    elif step.reply:
        flag = f'<span class="flag">{step.status}</span> ' if step.status != "ok" else ""
        parts.append(f'<p class="reply">{flag}<samp>{_breakable(step.reply)}</samp></p>')
    parts.append("</div></li>")
    return "".join(parts)


def _alt(step: Step) -> str:
    return f"{step.title}: {step.code}" if step.code else f"{step.title} this picture"


def _breakable(text: str) -> str:
    """Escaped text that may break after brackets and underscores on a narrow screen."""
    return re.sub(r"([_.(,])(?=\S)", r"\1<wbr>", escape(text[:600]))


# ---- one PNG --------------------------------------------------------------------------------

_INK, _SOFT, _PAPER = (29, 31, 35), (104, 108, 116), (251, 250, 247)
_GAP = 20
_LINE = 21


def episode_png(episode: Episode, album: Album) -> Image.Image:
    """A sheet with the pictures of an episode side by side, at most three in a row, words below."""
    told = steps(episode, album)
    columns = min(3, len(told))
    cells = [_cell(step) for step in told]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * (SHOWN_PX + _GAP) + _GAP
    title = _wrapped(episode.question, 26, width - 2 * _GAP)
    top = 2 * _GAP + 32 * len(title)
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP * (len(rows) + 1)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        pen.text((_GAP, _GAP + 32 * number), line, fill=_INK, font=ImageFont.load_default(26))
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (SHOWN_PX + _GAP), y))
        y += height + _GAP
    return sheet


def _cell(step: Step) -> Image.Image:
    """One step as a column: picture above, words below."""
    status = "" if step.status in ("", "ok") or step.title == "Answer" else f"[{step.status}] "
    ending = f"{step.status}; target: {step.reply}" if step.title == "Answer" else step.reply
    lines = [(step.title, _SOFT)]
    lines += [(line, _INK) for line in _wrapped(step.thought, 16, SHOWN_PX)]
    lines += [(line, _INK) for line in _wrapped(step.code, 16, SHOWN_PX)]
    lines += [(line, _SOFT) for line in _wrapped(status + ending, 16, SHOWN_PX)]
    picture = None if step.picture is None else step.picture.convert("RGB")
    if picture is not None:
        # A depth map brings its scale bar and is wider than its picture.
        picture.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    above = picture.height + 8 if picture is not None else 0
    cell = Image.new("RGB", (SHOWN_PX, above + _LINE * len(lines) + 4), _PAPER)
    if picture is not None:
        cell.paste(picture, (0, 0))
    pen = ImageDraw.Draw(cell)
    for number, (line, ink) in enumerate(lines):
        pen.text((0, above + _LINE * number), line, fill=ink, font=ImageFont.load_default(16))
    return cell


def _wrapped(text: str, size_px: int, width_px: int) -> list[str]:
    # The built-in font has no arrows.
    text = text.replace("→", "->")
    return textwrap.wrap(text[:600], max(10, int(width_px / (size_px * 0.56)))) if text else []
