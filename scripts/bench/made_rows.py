"""Rows of the nine published benchmarks as a run would leave them, made up for measuring pages.

Pictures have the sizes of the published ones and look like photographs to a codec; chains, replies
and drawings have the form and the length of real ones; scores are coins. Nothing here is a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.benchmarks import BENCHMARKS
from eval.rows import EvalRow
from rl.rewards import AnswerState
from rl.rewards.geometry import encode_mask
from rl.show.episode import CallRecord, Drawing, Episode, Picture, TurnRecord, drawing_of
from toolshed.types import DepthEstimate, Json, Point, Segmentation

WORDS = (
    *("the", "lamp", "chair", "table", "near", "left", "right", "closer", "depth", "point"),
    *("mask", "cup", "box", "shelf", "red", "blue", "detected", "value", "first", "compare"),
    *("measure", "answer", "because", "image", "camera", "object", "located", "which", "then"),
)


class _Form(NamedTuple):
    """How one benchmark's rows look."""

    size: tuple[int, int]
    kind: str
    types: tuple[str, ...]
    chain: str
    """Calls as letters: D depth, R pointing, V value, S mask, B box, G grasp; ``/`` ends a turn."""
    share: float
    """Of right answers."""


FORMS = {
    "robospatial": _Form((640, 480), "", ("vqa_fit", "vqa_relation", "vacant"), "RR", 0.66),
    "reflocation": _Form((640, 480), "point_object", ("location",), "R", 0.54),
    "refplacement": _Form((640, 480), "point_object", ("placement",), "R", 0.58),
    "refunseen": _Form((640, 480), "point_object", ("unseen",), "R", 0.48),
    "blinkdepth": _Form((504, 364), "choice", ("relative_depth",), "DRR/VV", 0.87),
    "cvb2drelation": _Form((640, 480), "choice", ("left_right", "above_below"), "RR", 0.94),
    "cvb3ddepth": _Form((1036, 756), "choice", ("closer_of_two",), "DRR/VV", 0.96),
    "boppose": _Form((1288, 728), "pose", ("cuboid_corners",), "R/S/D/B", 0.5),
    "bopgrasp": _Form((1288, 728), "grasp", ("grasp_plane",), "R/S/D/G", 0.5),
}
_NAMES = {
    "D": "depth_estimator.estimate_depth",
    "R": "roborefer.detect_one",
    "V": "vision_ops.index_at",
    "S": "sam2.segment_from_point",
    "B": "bounding_box.compute_bbox",
    "G": "grasp_generator.compute_grasp",
}


def made_rows(
    folder: Path, *, keys: Sequence[str] = tuple(FORMS), num: int | None = None, seed: int = 0
) -> Iterator[EvalRow]:
    """Rows of the named benchmarks with their pictures in ``folder``; ``num`` questions of each, or
    as many as are published."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for key in keys:
        for number in range(num or BENCHMARKS[key].size):
            yield _row(key, number, folder, rng)


def _row(key: str, number: int, folder: Path, rng: np.random.Generator) -> EvalRow:
    form = FORMS[key]
    kind_of_question = form.types[number % len(form.types)]
    kind = form.kind or ("point_free" if kind_of_question == "vacant" else "yesno")
    right = bool(rng.random() < form.share)
    broken = rng.random() < 0.004
    picture = _picture(folder / f"{key}-{number}.jpg", form.size, rng)
    target, answer, score, parts = _scored(kind, right, rng)
    state: AnswerState = "unparsable" if not right and rng.random() < 0.05 else "answered"
    episode = Episode(
        question_id=str(number),
        source=key,
        kind=kind,
        question=f"{_text(rng, 28)}? (A) {_text(rng, 1)} (B) {_text(rng, 2)}",
        pictures=(picture,),
        turns=(*_turns(form.chain, rng), _last(answer, rng)),
        target=target,
        answer=answer,
        reward=score,
        accuracy=score,
        parts=parts,
    )
    failure = "sam2.segment_from_point: CUDA out of memory" if broken else ""
    return EvalRow(
        benchmark=key,
        task=key,
        question_id=str(number),
        draw="greedy",
        question_type=kind_of_question,
        question_hash=f"{number:016x}",
        state="" if broken else state,
        answer=answer,
        target=target,
        score=None if broken else score,
        reward=score,
        stop_reason="tool_failure" if broken else "answered",
        num_calls=episode.num_calls,
        seconds=round(float(rng.gamma(4, 1.5)), 3),
        seed=number,
        schema_hash="5" * 64,
        policy="made-up 0123456789ab",
        failure=failure,
        episode=episode,
    )


def _picture(path: Path, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Soft shapes, some texture: about as many bytes as a photograph of a room."""
    coarse = _enlarged(rng.normal(128, 52, (6, 8, 3)), (48, 36))
    soft = _enlarged(coarse + rng.normal(0, 18, (36, 48, 1)), size)
    pixels = soft + np.roll(_texture(size), int(rng.integers(1000)), axis=1)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=88)
    return Picture(sha256=hashlib.sha256(str(path).encode()).hexdigest(), location=str(path))


@lru_cache
def _texture(size: tuple[int, int]) -> npt.NDArray[np.int16]:
    noise = np.random.default_rng(1).normal(0, 3, (size[1], size[0], 1))
    return noise.astype(np.int16)


def _enlarged(values: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.int16]:
    """Levels of 0 to 255 at another size, smoothly."""
    picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)


def _scored(
    kind: str, right: bool, rng: np.random.Generator
) -> tuple[Json, str, float, dict[str, float]]:
    """Ground truth, answer, score and measured parts."""
    u, v = (round(float(x), 3) for x in rng.uniform(0.25, 0.75, 2))
    off = 0.0 if right else 0.3
    match kind:
        case "yesno":
            return ("Yes", "Yes" if right else "No", float(right), {})
        case "choice":
            return ("A", "A" if right else "B", float(right), {})
        case "point_free":
            spread = [
                [round(u + x, 3), round(v + y, 3)] for x, y in rng.uniform(-0.08, 0.08, (20, 2))
            ]
            return (json_text(spread), f"[({u:.3f}, {abs(v - off):.3f})]", float(right), {})
        case "point_object":
            return (
                _mask(u, v),
                f"[({u:.3f}, {abs(v - off):.3f})]",
                float(right),
                {"num_points": 1.0},
            )
        case "pose":
            corners = [(round(u + x, 3), round(v + y, 3)) for x in (0, 0.1) for y in (0, 0.2)] * 2
            moved = [(round(x + 0.03, 3), y) for x, y in corners]
            return (str(corners), str(moved), round(float(rng.beta(2, 2)), 4), {})
    quality = float(rng.beta(2, 2))
    parts = {"mace": quality, "nce": 4 * (1 - quality), "success": float(quality > 0.4)}
    parts["nce_below_2"] = float(parts["nce"] < 2)
    return (_grasp(u, v), _grasp(u + 0.02, v - 0.02), quality, parts)


def json_text(pairs: Sequence[Sequence[float]]) -> str:
    """Points as the published files write them."""
    return "[" + ", ".join(f"({x}, {y})" for x, y in pairs) + "]"


def _mask(u: float, v: float) -> str:
    down, across = np.mgrid[0:384, 0:512]
    return encode_mask((across / 512 - u) ** 2 + (down / 384 - v) ** 2 < 0.06**2)


def _grasp(u: float, v: float) -> str:
    places = {
        "Grasp center": (0.0, 0.0), "Left finger base": (-0.03, 0.02),
        "Right finger base": (0.03, 0.02), "Left finger tip": (-0.03, 0.08),
        "Right finger tip": (0.03, 0.08),
    }  # fmt: skip
    return ", ".join(f"{name}: [{u + x:.3f}, {v + y:.3f}]" for name, (x, y) in places.items())


def _turns(chain: str, rng: np.random.Generator) -> Iterator[TurnRecord]:
    for letters in chain.split("/"):
        calls = tuple(_call(letter, rng) for letter in letters)
        yield TurnRecord(
            text=f"<think>{_text(rng, 60)}</think><tool_call>...</tool_call>",
            calls=calls,
            num_tokens=int(rng.integers(80, 240)),
            generate_s=round(float(rng.gamma(4, 0.3)), 4),
            tools_s=round(max(call.total_s for call in calls), 4),
        )


def _call(letter: str, rng: np.random.Generator) -> CallRecord:
    u, v = (round(float(x), 3) for x in rng.uniform(0.1, 0.9, 2))
    run_s, queue_s = round(float(rng.gamma(3, 0.12)), 4), round(float(rng.gamma(1, 0.05)), 4)
    refused = letter == "G" and rng.random() < 0.5
    return CallRecord(
        name=_NAMES[letter],
        arguments={"obj_name": _text(rng, 4), "image_index": 0, "u": u, "v": v},
        status="refused" if refused else "ok",
        reason="collision" if refused else "",
        reply=_text(rng, 34),
        drawing=None if refused else _drawn(letter, u, v, rng),
        queue_s=queue_s,
        run_s=run_s,
        total_s=round(queue_s + run_s + 0.004, 4),
    )


def _drawn(letter: str, u: float, v: float, rng: np.random.Generator) -> Drawing:
    match letter:
        case "D":
            coarse = rng.uniform(0, 255, (7, 9, 1)).repeat(3, axis=2)
            depth_m = _enlarged(coarse, (160, 120))[..., 0] / 40 + 1.5
            return drawing_of(
                DepthEstimate(depth_m=depth_m.astype(np.float32), focal_length_px=900.0)
            )
        case "S":
            down, across = np.mgrid[0:728, 0:1288]
            ragged = 0.012 * np.sin(40 * across / 1288) + 0.004 * rng.normal(size=(728, 1))
            mask = (across / 1288 - u) ** 2 + (down / 728 - v) ** 2 < (0.09 + ragged) ** 2
            return drawing_of(Segmentation(mask=mask, score=0.93, points=(Point(u=u, v=v),)))
        case "V":
            metres = round(float(rng.uniform(0.5, 5)), 3)
            return Drawing(shape="value", label="depth_map", points=((u, v),), low=metres)
        case "B":
            # Corners of a unit cube in Open3D's order, seen from the side.
            cube = (
                (0, 0, 0),
                (1, 0, 0),
                (0, 1, 0),
                (0, 0, 1),
                (1, 1, 1),
                (0, 1, 1),
                (1, 0, 1),
                (1, 1, 0),
            )
            flat = [(0.3 + 0.2 * x + 0.06 * z, 0.35 + 0.25 * y - 0.06 * z) for x, y, z in cube]
            return Drawing(shape="box", points=tuple((round(a, 4), round(b, 4)) for a, b in flat))
        case "G":
            hand = ((0, 0), (-0.05, 0.03), (0.05, 0.03), (-0.05, 0.13), (0.05, 0.13))
            return Drawing(shape="grasp", points=tuple((u + x, v + y) for x, y in hand), low=0.9)
    return Drawing(shape="points", label="lamp", points=((u, v),))


def _last(answer: str, rng: np.random.Generator) -> TurnRecord:
    text = f"<think>{_text(rng, 40)}</think><answer>{answer}</answer>"
    return TurnRecord(text=text, num_tokens=90, generate_s=0.8)


def _text(rng: np.random.Generator, num_words: int) -> str:
    return " ".join(rng.choice(WORDS, num_words)).capitalize()
