"""What a model reads of a program that it had run, in the two profiles of ``replies.py``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolshed.types import CodeRun, ToolImage

_RESULT_CHARS = 200
_PRINTED_CHARS = 1500


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """What stands before the parts of a program's outcome."""

    result: str = "Result"
    stdout: str = "Stdout"
    stderr: str = "Stderr"


_LABELS = Labels()


def compact(value: CodeRun, image_index: int | str | None) -> str:
    """One short line: the error, or the result and what was printed."""
    if value.stderr.strip():
        return f"error: {_cut(value.stderr.strip().splitlines()[-1], 120)}"
    if image_index is not None:
        return f"$result image {image_index}"
    printed = _cut(" ".join(value.stdout.split()), 120)
    if value.result is None:
        return printed or _cut(value.text, 60) or "done"
    number = isinstance(value.result, int | float)
    shown = f"{float(str(value.result)):.2f}" if number else _cut(value.text, 60)
    return f"$result {shown}" + (f" printed: {printed}" if printed else "")


def released(value: CodeRun, kept: str, labels: Labels = _LABELS) -> str:
    """Lines with their labels; ``kept`` says what became a variable."""
    lines = []
    if isinstance(value.result, ToolImage):
        lines.append(f"{labels.result}: {form(value)}")
    elif value.text_length:
        more = "... (truncated)" if value.text_length > _RESULT_CHARS else ""
        lines.append(f"{labels.result}: {value.text[:_RESULT_CHARS]}{more}")
    lines += [
        f"{label}: {_ends(text.rstrip())}"
        for label, text in ((labels.stdout, value.stdout), (labels.stderr, value.stderr))
        if text.strip()
    ]
    if not lines:
        lines = ["The code ran and left no output."]
    if kept:
        lines.append(kept)
    return "\n".join(lines)


def kind(value: CodeRun) -> str:
    """Kind of the variable that keeps the result."""
    match value.result:
        case ToolImage():
            return "image"
        case np.ndarray():
            return "array"
        case list():
            return "list"
    return "number"


def form(value: CodeRun) -> str:
    """The result's type and size."""
    match value.result:
        case ToolImage() as image:
            return f"image, {image.width}x{image.height}"
        case np.ndarray() as array:
            return f"numpy array, {'x'.join(map(str, array.shape)) or 'no axes'}"
        case list() as listed:
            return f"list, {len(listed)} entries"
    return "number"


def _ends(text: str) -> str:
    """Both ends of what a program printed."""
    if len(text) <= 2 * _PRINTED_CHARS:
        return text
    return f"{text[:_PRINTED_CHARS]}... (truncated) ...{text[-_PRINTED_CHARS:]}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
