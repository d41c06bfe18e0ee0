"""Which families there are, what the model sees of them, and what can answer. Loaded when used."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolshed.backend import load_class
from toolshed.errors import ConfigError
from toolshed.tool import Family
from toolshed.types import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class BackEnd:
    """A class that answers, as ``module:Class``, with the arguments that this family gives it."""

    location: str
    arguments: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyEntry:
    """A contract and its back-ends; None marks a back-end that is announced and not there yet."""

    contract: str
    back_ends: dict[str, BackEnd | None]


_LIGHT = "toolshed.backends.light_"


def _alone(contract: str, location: str) -> FamilyEntry:
    """A family that needs no model, so that its one back-end is light and real alike."""
    only = BackEnd(location=f"toolshed.backends.{location}")
    return FamilyEntry(contract=f"toolshed.{contract}", back_ends={"light": only, "real": only})


FAMILIES: dict[str, FamilyEntry] = {
    "roborefer": FamilyEntry(
        contract="toolshed.tools.pointing:Pointing",
        back_ends={
            "light": BackEnd(
                location=f"{_LIGHT}pointing:LightPointing", arguments={"announce": False}
            ),
            "real": None,
        },
    ),
    "vlm": FamilyEntry(
        contract="toolshed.tools.pointing:AnnouncedPointing",
        back_ends={
            "light": BackEnd(
                location=f"{_LIGHT}pointing:LightPointing", arguments={"announce": True}
            ),
            "real": None,
        },
    ),
    "sam2": FamilyEntry(
        contract="toolshed.tools.segmentation:SegmentationTool",
        back_ends={
            "light": BackEnd(location=f"{_LIGHT}segmentation:LightSegmentation"),
            "real": None,
        },
    ),
    "depth_estimator": FamilyEntry(
        contract="toolshed.tools.depth:Depth",
        back_ends={"light": BackEnd(location=f"{_LIGHT}depth:LightDepth"), "real": None},
    ),
    "bounding_box": FamilyEntry(
        contract="toolshed.tools.boxes:Boxes",
        back_ends={"light": BackEnd(location=f"{_LIGHT}boxes:LightBoxes"), "real": None},
    ),
    "vision_ops": FamilyEntry(
        contract="toolshed.tools.vision_ops:VisionOps",
        back_ends={"light": BackEnd(location=f"{_LIGHT}vision_ops:LightVisionOps"), "real": None},
    ),
    "grasp_generator": FamilyEntry(
        contract="toolshed.tools.grasping:Grasping",
        back_ends={"light": BackEnd(location=f"{_LIGHT}grasping:LightGrasping"), "real": None},
    ),
    "code_executor": _alone("tools.code:CodeExecutor", "code_executor:SandboxedCode"),
    "visual_io": _alone("tools.visual_io:VisualIO", "visual_io:PlainVisualIO"),
    "calculator": _alone("tools.calculator:Calculator", "calculator:PlainCalculator"),
    "greeting": _alone("tools.greeting:Greeting", "greeting:CountedGreeting"),
    "robot": FamilyEntry(
        contract="toolshed.tools.robot:Robot",
        back_ends={"light": BackEnd(location=f"{_LIGHT}robot:LightRobot"), "real": None},
    ),
}


def contract_of(family: str, backend: str) -> type[Family]:
    """The contract of a family; a family that the table lacks is its own contract."""
    entry = FAMILIES.get(family)
    found = load_class(entry.contract if entry is not None else backend)
    if not issubclass(found, Family):
        raise ConfigError(f"{found.__qualname__} is no Family, so {family!r} has no contract")
    return found


def backend_of(family: str, backend: str) -> BackEnd:
    """What answers for a family: a word of the table or an import path."""
    if ":" in backend:
        return BackEnd(location=backend)
    entry = FAMILIES[family]
    if backend not in entry.back_ends:
        raise ConfigError(
            f"{family} has no back-end {backend!r}; it has {', '.join(entry.back_ends)}"
        )
    found = entry.back_ends[backend]
    if found is None:
        raise ConfigError(
            f"{family}: the real back-ends are not part of this checkout yet; "
            "write 'backend: light', or choose configs/tools/light.yaml"
        )
    return found
