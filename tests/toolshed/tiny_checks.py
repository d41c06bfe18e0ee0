"""Checks of the real back-ends on tiny checkpoints, run in a tool environment: one process, one
line of JSON with the name of each check and what went wrong.

``python -m tests.toolshed.tiny_checks FOLDER``
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.toolshed import tiny_models
from tests.toolshed.contracts import CHECKS, Asked, table_picture
from tests.toolshed.original_depth_pro import original_weights
from toolshed.backend import Answer
from toolshed.errors import ConfigError
from toolshed.types import DepthEstimate, Point, Segmentation

FOLDER = Path()
MODELS = {
    "sam2": ("sam2", "toolshed.backends.sam2:Sam2"),
    "sam3": ("sam2", "toolshed.backends.sam3:Sam3"),
    "depth_pro": ("depth_estimator", "toolshed.backends.depth_pro:DepthPro"),
    "molmo2": ("vlm", "toolshed.backends.molmo2:Molmo2"),
}


@cache
def checkpoint(kind: str) -> str:
    """Folder of a tiny checkpoint, made once."""
    folder = FOLDER / kind
    tiny_models.MAKERS[kind](folder)
    return str(folder)


def asked(kind: str, **arguments: object) -> Asked:
    """The back-end of a tiny checkpoint, through the very code that loads a real one."""
    family, location = MODELS[kind]
    if "checkpoint_path" not in arguments:
        arguments.setdefault("model_id", checkpoint(kind))
    return Asked(family, location, {"dtype": "float32", "device": "cpu", **arguments})


def refused(kind: str, **arguments: object) -> str:
    """The sentence of a ConfigError."""
    try:
        asked(kind, **arguments)
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"{kind} loads with {arguments}")


def model_of(asked: Asked) -> Any:
    return asked.back_end._instance._model


def check_contracts() -> None:
    for kind, (family, _) in MODELS.items():
        CHECKS[family](asked(kind))


def check_dtypes() -> None:
    """As asked for, and what is answered has the same types."""
    for kind in ("sam2", "sam3", "depth_pro"):
        for word in ("bfloat16", "float16", "auto"):
            loaded = asked(kind, dtype=word)
            wanted = "float32" if word == "auto" else word
            assert str(model_of(loaded).dtype) == f"torch.{wanted}"
    CHECKS["sam2"](asked("sam2", dtype="bfloat16"))
    CHECKS["depth_estimator"](asked("depth_pro", dtype="bfloat16"))
    CHECKS["vlm"](asked("molmo2", dtype="bfloat16"))


def check_sam2_against_its_own_pipeline() -> None:
    """Threshold 0.15, best of the candidates, one erosion by 7 x 7: the score is the mask's."""
    import torch
    from scipy import ndimage
    from transformers import Sam2Model, Sam2Processor

    image, folder = table_picture(), checkpoint("sam2")
    model, processor = Sam2Model.from_pretrained(folder), Sam2Processor.from_pretrained(folder)
    inputs = processor(
        images=image.pixels.copy(),
        input_points=[[[[27, 32], [26, 28]]]],
        input_labels=[[[1, 1]]],
        return_tensors="pt",
    )
    with torch.no_grad():
        outputs = model(**inputs)
    masks = processor.post_process_masks(
        outputs.pred_masks, inputs["original_sizes"], mask_threshold=0.15
    )
    best = int(outputs.iou_scores[0, 0].argmax())
    whole = masks[0][0, best].numpy()
    wanted = ndimage.binary_erosion(whole, np.ones((7, 7), dtype=bool), border_value=1)
    points = [Point(u=27.9 / image.width, v=32.9 / image.height)]
    points.append(Point(u=26.1 / image.width, v=28.1 / image.height))
    found = asked("sam2").value(Segmentation, "segment_from_points", image=image, points=points)
    assert wanted.any() and np.array_equal(found.mask, wanted)
    score = float(outputs.iou_scores[0, 0, best])
    assert found.whole_score is not None and abs(found.whole_score - score) < 1e-5
    assert abs(found.score - score * wanted.sum() / whole.sum()) < 1e-5
    free = asked("sam2", erosion_px=1).value(
        Segmentation, "segment_from_points", image=image, points=points
    )
    assert np.array_equal(free.mask, whole) and free.score == free.whole_score


def check_a_picture_is_encoded_once() -> None:
    sam = asked("sam2", kept_encodings=2)
    calls: list[int] = []
    model_of(sam).vision_encoder.register_forward_pre_hook(
        lambda module, given: calls.append(len(given[0]))
    )
    pictures = [table_picture(side) for side in (40, 48, 56)]
    for index in (0, 0, 1, 0, 2, 0, 1):
        sam.answer("segment_from_point", image=pictures[index], x=0.33, y=0.45)
    assert calls == [1, 1, 1, 1], calls
    requests = [
        sam.request("segment_from_point", image=each, x=0.33, y=0.45) for each in 2 * pictures
    ]
    assert len(sam.batched(requests) or []) == 6 and calls[4:] == [1], calls


def check_depth_against_its_own_pipeline() -> None:
    import torch
    from transformers import DepthProForDepthEstimation, DepthProImageProcessor

    image, folder = table_picture(), checkpoint("depth_pro")
    model = DepthProForDepthEstimation.from_pretrained(folder)
    processor = DepthProImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=image.pixels.copy(), return_tensors="pt"))
    size = (image.height, image.width)
    (wanted,) = processor.post_process_depth_estimation(outputs, target_sizes=[size])
    found = asked("depth_pro").value(DepthEstimate, "estimate_depth", image=image)
    assert np.allclose(found.depth_m, wanted["predicted_depth"].numpy(), rtol=1e-4)
    assert abs(found.focal_length_px / float(wanted["focal_length"]) - 1) < 1e-4
    assert 0.1 < found.depth_m.mean() < 10 and found.depth_m.std() > 0


def check_the_original_checkpoint_says_the_same() -> None:
    """A file with the names of the original network, in its 16 bits."""
    import torch

    from toolshed.backends.depth_pro_checkpoint import renamed

    by_folder = asked("depth_pro")
    state = model_of(by_folder).half().float().state_dict()
    keys = original_weights(width=64, blocks=12, grid=8, patch=4, features=16)
    weights = {key: torch.cat([state[name] for name in renamed(key)]).half() for key in keys}
    path = FOLDER / "depth_pro.pt"
    torch.save(weights, path)
    by_file = asked("depth_pro", checkpoint_path=str(path))
    found = [
        each.value(DepthEstimate, "estimate_depth", image=table_picture())
        for each in (by_folder, by_file)
    ]
    assert np.allclose(found[0].depth_m, found[1].depth_m, rtol=1e-5)
    assert np.isclose(found[0].focal_length_px, found[1].focal_length_px)
    del weights["head.4.bias"]
    torch.save(weights, path)
    assert "is no checkpoint of Depth Pro" in refused("depth_pro", checkpoint_path=str(path))
    path.write_bytes(b"no file of torch")
    assert "is no file of weights alone" in refused("depth_pro", checkpoint_path=str(path))
    assert "is no file" in refused("depth_pro", checkpoint_path=str(FOLDER / "absent.pt"))


def check_molmo2_says_what_the_model_wrote() -> None:
    """And asks in words that the config may change; a longer neighbour changes nothing."""
    import torch

    molmo = asked("molmo2", ask_one="{obj_name}?", max_new_tokens=12)
    answer = molmo.answer("detect_all", image=table_picture(), obj_name="cup")
    assert answer.text == (
        "Detected 2 instance(s) of 'cup': [(0.5, 0.25), (0.125, 0.75)] "
        "Kept for later calls: $cup_detections (list, 2 points)."
    )
    requests = [
        molmo.request("detect_one", image=table_picture(side), obj_name=name)
        for side, name in ((32, "cup"), (64, "very long name of a rather small blue cup"))
    ]
    for each in molmo.batched(requests) or []:
        assert isinstance(each, Answer)
        assert "1 instance(s)" in each.text and "(0.5, 0.25)" in each.text
    short = asked("molmo2", max_new_tokens=1)
    with torch.no_grad():
        reason = short.refusal("detect_one", image=table_picture(), obj_name="cup")
    assert reason == "unreadable"


def check_what_cannot_be_loaded() -> None:
    """One sentence with the value and what to do; nothing is filled at random."""
    from safetensors.torch import load_file, save_file

    assert "neither a folder nor a download" in refused("sam2", model_id="./absent")
    assert "is no checkpoint of" in refused("sam2", model_id=checkpoint("depth_pro"))
    assert "write an odd number" in refused("sam2", erosion_px=4)
    assert "this process sees" in refused("sam2", device="cuda:7")
    file = Path(checkpoint("sam3")) / "model.safetensors"
    weights = load_file(file)
    del weights["tracker_model.prompt_encoder.not_a_point_embed.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    told = refused("sam3", model_id=checkpoint("sam3"))
    assert "lacks 1 of its weights, first prompt_encoder.not_a_point_embed" in told, told


def run(folder: Path) -> dict[str, str]:
    """Each check with the traceback of its failure, empty where there is none."""
    global FOLDER
    FOLDER = folder
    found: dict[str, str] = {}
    checks: dict[str, Callable[[], None]] = {
        name: each for name, each in globals().items() if name.startswith("check_")
    }
    for name, check in checks.items():
        try:
            check()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
