"""``toolshed call``: one call, or several in one session, as a model would make them.

In process, unless tools of the same config are running: those of ``--address``, or those that
this user's ``toolshed serve`` keeps. Replies go to standard output, all else to standard error;
what came back is drawn on its picture.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from PIL import Image

from toolshed.command import MACHINE_FAILURE, USER_ERROR
from toolshed.commands.remote import Running, config_name, find_running
from toolshed.config import ToolshedConfig, load_tools, replaced
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, load_image
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tool import Method, Role
from toolshed.toolset import ToolSet
from toolshed.types import Json, TextReply, ToolCall, ToolImage, ToolResult, ToolValue

_NEXT_CALL = "--"
_CODES = {"ok": 0, "refused": USER_ERROR, "failed": MACHINE_FAILURE}
_REMEDIES = {
    "no_world": "give --scene SEED",
    "no_depth": "give --depth FILE after the --image that it belongs to",
    "no_focal_length": "give --focal PX",
}
"""Of refusals whose words are for models; by reason."""
_EPILOG = """\
examples:
  toolshed call roborefer.detect_one obj_name='red cube' --image desk.png
  toolshed call depth_estimator.estimate_depth --image desk.png --depth desk.depth.png \\
    --focal 600 -- vision_ops.index_at data='$depth_map' u=0.4 v=0.6
  toolshed call robot.capture_image --scene 7 -- roborefer.detect_all obj_name='red object'

A value is read as JSON where it is JSON, and as text otherwise. image_index may be left out
where the conversation has one picture. Calls after '--' see the variables and pictures of those
before; the first call that is refused (exit code 2) or fails (3) ends the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """One call as it was typed."""

    name: str
    arguments: dict[str, str]


def main(arguments: Sequence[str]) -> int:
    """Make the calls in order, up to the first that was not answered."""
    options, typed = _parse(arguments)
    names = list(dict.fromkeys(each.name for each in typed))
    config = _config(options, names)
    images = _images(options)
    _check_out(options)
    with _interrupted_at_once(), Toolshed.open(config, show=names) as shed:
        session = shed.session(images, scene=options.scene, priority="interactive")
        calls = [(each, shed.tools.methods[each.name]) for each in typed]
        return asyncio.run(_play(session, calls, _Drawing.of(options, images)))


@contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """asyncio waits for the next await, which a tool in this process may never reach."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _play(session: Session, calls: Sequence[tuple[Words, Method]], drawing: _Drawing) -> int:
    result = None
    for number, (words, method) in enumerate(calls):
        filled = _filled(words, method, session)
        if not session.images and any(each.role == "image" for each in method.visible):
            raise ConfigError(
                f"{words.name} looks at a picture, and there is none; give --image FILE"
            )
        call = ToolCall(id=f"call_{number}", name=words.name, arguments=filled)
        result = await session.call(call)
        _tell(result)
        if result.status != "ok":
            if result.reason in _REMEDIES:
                print(_REMEDIES[result.reason], file=sys.stderr)
            return _CODES[result.status]
        drawing.look(method, filled, session.images)
    assert result is not None, "the parser asks for at least one call"
    drawing.save(result.value, session.images, calls[-1][0].name)
    return 0


def _tell(result: ToolResult) -> None:
    spent = result.timings
    parts = [("queue", spent.queue_s), ("transfer", spent.transfer_s), ("run", spent.run_s)]
    listed = ", ".join(
        f"{name} {1e3 * each:.1f}" for name, each in [*parts, ("encode", spent.encode_s)]
    )
    outcome = result.status if not result.reason else f"{result.status} ({result.reason})"
    print(f"{result.name}: {outcome} in {1e3 * spent.total_s:.1f} ms ({listed})", file=sys.stderr)
    kept = [f"${each.name}" for each in result.variables if not each.name.startswith("_")]
    if kept:
        print(f"  kept {', '.join(kept)}", file=sys.stderr)
    if result.status == "failed":
        print(f"error: {result.text}", file=sys.stderr)
    else:
        print(result.text, flush=True)


# ---- what was typed -------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Words]]:
    parser = _parser()
    options = argparse.Namespace()
    typed = []
    # Without a word the parser itself says what is missing.
    for group in list(_groups(arguments)) or [[]]:
        parser.parse_intermixed_args(group, options)
        typed.append(_words(options.words))
    return options, typed


def _groups(arguments: Sequence[str]) -> Iterator[list[str]]:
    for is_mark, group in itertools.groupby(arguments, lambda word: word == _NEXT_CALL):
        if not is_mark:
            yield list(group)


def _words(words: Sequence[str]) -> Words:
    name, *rest = words
    arguments = {}
    for word in rest:
        key, mark, value = word.partition("=")
        if not mark or not key:
            raise ConfigError(
                f"{word!r} is no argument of {name}; write key=value, and '--' before another call"
            )
        if key in arguments:
            raise ConfigError(f"argument {key!r} of {name} is given twice")
        arguments[key] = value
    return Words(name=name, arguments=arguments)


def _filled(words: Words, method: Method, session: Session) -> dict[str, Json]:
    """The arguments as a model would write them."""
    roles = {each.schema_name: each.role for each in method.visible}
    filled: dict[str, Json] = {}
    for key, text in words.arguments.items():
        filled[key] = _value(text, roles.get(key))
    # A conversation with one picture leaves nothing to choose.
    if "image_index" in roles and "image_index" not in filled and len(session.images) == 1:
        filled["image_index"] = 0
    return filled


def _value(text: str, role: Role | None) -> Json:
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError):
        return _number_or_text(text) if role == "number" else text
    return text if role == "text" and not isinstance(value, str) else value


def _number_or_text(text: str) -> Json:
    """Also a number that JSON would not have, such as ``.5``."""
    try:
        return float(text)
    except ValueError:
        return text


def _config(options: argparse.Namespace, names: Sequence[str]) -> ToolshedConfig:
    """The config with the place where its tools answer, which is said on standard error."""
    config = load_tools(options.config)
    if options.address is not None:
        if options.local:
            raise ConfigError("give --local or --address, not both")
        return replaced(config, {"host": "ray", "ray_address": options.address})
    running, why = (None, "") if options.local else _running(config, options.config, names)
    if running is None:
        print(f"tools: in process{why and f'; {why}'}", file=sys.stderr)
        return replaced(config, {"host": "local"})
    print(f"tools: those running at {running.address}", file=sys.stderr)
    place = {"ray_address": running.address, "namespace": running.namespace}
    return replaced(config, {"host": "ray", **place})


def _running(config: ToolshedConfig, word: str, names: Sequence[str]) -> tuple[Running | None, str]:
    """This user's running tools where they are those of the config, else why not."""
    try:
        running = find_running()
    except ConfigError as error:
        return None, str(error)
    if running is None:
        return None, ""
    if running.config != config_name(word):
        return None, f"those running at {running.address} are of {running.config}"
    families = {name.partition(".")[0] for name in names}
    same = ToolSet.of(config).schema_hash == running.schema_hash
    if not same or not families <= set(running.families):
        return None, f"those running at {running.address} are of another state of {word}"
    if importlib.util.find_spec("ray") is None:
        return None, f"those running at {running.address} need Ray; pip install 'spacetools[ray]'"
    return running, ""


def _images(options: argparse.Namespace) -> list[ToolImage]:
    if len(options.depth) > len(options.image):
        raise ConfigError(
            f"{len(options.depth)} depth images for {len(options.image)} pictures; "
            "give each --depth after the --image that it belongs to"
        )
    depths: list[str | None] = [*options.depth, *[None] * len(options.image)]
    return [
        load_image(ImageSource(image=image, depth=depth, focal_length_px=options.focal))
        for image, depth in zip(options.image, depths, strict=False)
    ]


def _check_out(options: argparse.Namespace) -> None:
    """What cannot be saved is said before any call is made."""
    out: Path | None = options.out
    if out is None:
        return
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file in it")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--out {out}: name a .png, .jpg or .webp file")
    # The last folder is made; a slip further up is not.
    if not (out.parent.is_dir() or out.parent.parent.is_dir()):
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    paths = [Path(each) for each in options.image if not each.startswith("data:")]
    if any(out.exists() and each.exists() and out.samefile(each) for each in paths):
        raise ConfigError(f"--out {out} is the picture itself; name another file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed call",
        usage="toolshed call FAMILY.METHOD [key=value ...] [options] [-- FAMILY.METHOD ...]",
        description="Make one call, or several in one session, as a model would make them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="FAMILY.METHOD [key=value ...]")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated"
    )
    parser.add_argument(
        "--depth",
        action="append",
        default=[],
        metavar="FILE",
        help="16-bit PNG in millimetres: the first belongs to the first picture, and so on",
    )
    parser.add_argument(
        "--focal", type=float, default=None, metavar="PX", help="focal length of the pictures"
    )
    parser.add_argument(
        "--config", default="light", help="word or path of a tool YAML (default: light)"
    )
    parser.add_argument(
        "--scene", type=int, default=None, metavar="SEED", help="the robot's world, by its seed"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="where the drawing goes (default: <image stem>.<family>.png in this folder)",
    )
    parser.add_argument(
        "--address",
        default=None,
        help="address of running tools, or the file that has it (default: those of the same config "
        "that your toolshed serve keeps, if any)",
    )
    parser.add_argument(
        "--local", action="store_true", help="in this process, whatever else is running"
    )
    return parser


# ---- the drawing ----------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Drawing:
    """Which picture the calls are about, and where what came back is drawn."""

    out: Path | None
    stems: list[str]
    """Of the files of the first pictures; those that tools bring have none."""
    index: int = 0

    @classmethod
    def of(cls, options: argparse.Namespace, images: Sequence[ToolImage]) -> _Drawing:
        stems = [
            "picture" if each.startswith("data:") else Path(each).stem for each in options.image
        ]
        return cls(out=options.out, stems=stems)

    def look(self, method: Method, arguments: dict[str, Json], images: Sequence[ToolImage]) -> None:
        """Note which picture a call was about: that of its index, or the one that it brought."""
        index = arguments.get("image_index")
        if isinstance(index, int) and index < len(images):
            self.index = index
        elif method.family == "robot":
            self.index = max(0, len(images) - 1)

    def save(self, value: ToolValue | None, images: Sequence[ToolImage], name: str) -> None:
        if not images or (isinstance(value, TextReply) and not value.images):
            return
        from toolshed.draw import draw

        stem = self.stems[self.index] if self.index < len(self.stems) else "picture"
        out = self.out or Path(f"{stem}.{name.partition('.')[0]}.png")
        shown = value.images[-1] if isinstance(value, TextReply) else images[self.index]
        try:
            out.parent.mkdir(exist_ok=True)
            draw(shown, value).save(out)
            print(f"drawn in {out}", file=sys.stderr)
            if self.index >= len(self.stems) and shown.depth_mm is not None:
                depth = out.with_suffix(".depth.png")
                Image.fromarray(shown.depth_mm).save(depth)
                print(f"depth in {depth}; --focal {shown.focal_length_px}", file=sys.stderr)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the drawing cannot be saved as {out}: {error}") from error
