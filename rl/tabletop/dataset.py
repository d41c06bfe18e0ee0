"""Data sets about the tabletop world: pictures, questions and exact answers in the released layout.

    python -m rl.tabletop OUT.parquet --kinds point,depth --num 256 --seed 7

Scene i of seed S has the number S * 1,000,000 + i, so data sets of different seeds share no scene.
Kinds of one style share pictures. The parquet appears last and whole: no parquet, no data set.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rl.questions.data import IMAGE_MARK, SOURCE_KINDS, write_questions
from rl.tabletop.kinds import TASK_KINDS, Draft, Margins, Shot
from rl.tabletop.wording import DEMO_KINDS
from rl.types import Question
from sft.run_dir import check_writable, draft_folder, naming
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.images import ImageSource
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import SceneStyle, make_scene
from toolshed.types import Message

SCENES_PER_SEED = 1_000_000
PNG_EFFORT = 1
"""zlib level: pictures with sensor noise hardly get smaller at higher ones."""
PATIENCE = 200
"""Scenes per missing question after which a kind counts as impossible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to make."""

    kinds: tuple[str, ...] = DEMO_KINDS
    num: int = 100
    """Questions of each kind."""
    seed: int = 0
    per_scene: int = 1
    """Most questions of one kind about one picture."""
    size: int | None = None
    """Square pictures of this side in place of the style's own size."""
    roll_deg: float | None = None
    """Cameras roll by up to this in place of the style's own range."""
    margins: Margins = field(default_factory=Margins)

    def check(self) -> None:
        """ConfigError before anything is made."""
        if not self.kinds:
            raise ConfigError(f"no kinds given; choose from {', '.join(TASK_KINDS)}")
        for kind in self.kinds:
            if kind not in TASK_KINDS:
                raise ConfigError(f"unknown kind {kind!r}; known: {', '.join(TASK_KINDS)}")
            changed = self.size is not None or self.roll_deg is not None
            if changed and not TASK_KINDS[kind].with_picture:
                raise ConfigError(
                    f"kind {kind!r} is played in the robot's own world, whose pictures have one "
                    "size and camera; leave out the size and roll options"
                )
        if self.num < 1 or self.per_scene < 1:
            raise ConfigError(f"num {self.num} and per_scene {self.per_scene} must be at least 1")
        roll, least = self.roll_deg or 0.0, self.margins
        if not 0 <= roll <= 180:
            raise ConfigError(f"roll {roll} must lie between 0 and 180 degrees")
        if not (0 <= least.leftmost < 1 and 0 <= least.nearer_m < 10):
            raise ConfigError(
                f"margins {least.leftmost} (leftmost, a share of the width) and {least.nearer_m} "
                "(nearer, metres) must lie in [0, 1) and [0, 10)"
            )
        if not 0 <= self.seed < 2**31 or (self.size is not None and not 56 <= self.size <= 2048):
            raise ConfigError(f"seed {self.seed} or size {self.size} is out of range")


Progress = Callable[[int, int], None]
"""Called with (questions made, questions wanted) after each scene."""


def write_dataset(
    out: str | Path, order: Order, *, force: bool = False, progress: Progress | None = None
) -> list[Question]:
    """Make an order's pictures beside ``out`` and its parquet; returns the questions.

    What was there before stays until all of it can be replaced.
    """
    path = parquet_path(out)
    for taken in (path, pictures_folder(path.parent, path.stem)):
        if taken.exists() and not force:
            raise ConfigError(f"{taken} exists; name another file or pass --force to make it again")
    order.check()
    check_writable(path.parent)
    questions = make_questions(order, path.parent, name=path.stem, progress=progress)
    write_questions(path, questions)
    return questions


def make_questions(
    order: Order, folder: str | Path, *, name: str = "tabletop", progress: Progress | None = None
) -> list[Question]:
    """Questions of an order, scene by scene, with pictures in ``folder/NAME_images``."""
    order.check()
    pictures = pictures_folder(Path(folder), name)
    with draft_folder(pictures) as draft:
        making = _Making(order=order, draft=draft, pictures=pictures, name=name, progress=progress)
        for style in dict.fromkeys(TASK_KINDS[kind].style for kind in order.kinds):
            making.scenes_of(style)
        # No parquet may tell of pictures that are no longer there.
        (pictures.parent / f"{name}.parquet").unlink(missing_ok=True)
    if not any(pictures.iterdir()):
        pictures.rmdir()
    return making.questions


def pictures_folder(folder: Path, name: str) -> Path:
    """Where the pictures of the data set ``folder/NAME.parquet`` lie; they are its own."""
    return folder.absolute() / f"{name}_images"


def parquet_path(out: str | Path) -> Path:
    """The file to write; ConfigError where none is named."""
    if not str(out).strip() or Path(out).is_dir():
        example = Path(out if str(out).strip() else "runs/my_data") / "train.parquet"
        raise ConfigError(f"OUT {str(out)!r} is no file; name one, for example {example}")
    path = Path(out).absolute()
    return path if path.suffix == ".parquet" else path.with_name(path.name + ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Making:
    """One data set under way."""

    order: Order
    draft: Path
    """Where pictures are written."""
    pictures: Path
    """Where they lie once all are there."""
    name: str
    progress: Progress | None
    questions: list[Question] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def scenes_of(self, style: SceneStyle) -> None:
        """Scene after scene of one style until each of its kinds has enough questions."""
        kinds = [kind for kind in self.order.kinds if TASK_KINDS[kind].style is style]
        wanted = [kind for kind in kinds if self.counts[kind] < self.order.num]
        number = 0
        while wanted:
            if number > PATIENCE * self.order.num:
                raise ConfigError(f"{wanted[0]}: almost no scene allows a question; lower margins")
            self._scene(self._adapted(style), wanted, number)
            number += 1
            wanted = [kind for kind in kinds if self.counts[kind] < self.order.num]
            if self.progress is not None:
                self.progress(len(self.questions), self.order.num * len(self.order.kinds))

    def _scene(self, style: SceneStyle, kinds: Sequence[str], number: int) -> None:
        scene = make_scene(self.order.seed * SCENES_PER_SEED + number, style)
        shot = Shot(scene=scene, rendering=render(scene, noise_seed=scene.seed))
        source: ImageSource | None = None
        for kind in kinds:
            rng = np.random.default_rng([scene.seed, list(TASK_KINDS).index(kind)])
            drafts = TASK_KINDS[kind].make(shot, self.order.margins, rng)
            num = min(self.order.per_scene, self.order.num - self.counts[kind], len(drafts))
            for chosen in rng.permutation(len(drafts))[:num]:
                if source is None and TASK_KINDS[kind].with_picture:
                    source = self._save(shot)
                self._add(kind, drafts[int(chosen)], shot, source)

    def _add(self, kind: str, draft: Draft, shot: Shot, source: ImageSource | None) -> None:
        task = TASK_KINDS[kind]
        images = (source,) if task.with_picture and source is not None else ()
        text = IMAGE_MARK * len(images) + draft.text
        self.questions.append(
            Question(
                id=f"{self.name}/{len(self.questions)}",
                source=f"tabletop-{kind}",
                kind=SOURCE_KINDS[f"tabletop-{kind}"],
                messages=(
                    Message(role="system", text=task.instruction),
                    Message(role="user", text=text, num_images=len(images)),
                ),
                images=images,
                target=draft.target,
                scene=None if images else shot.scene.seed,
                extra=dict(draft.facts),
            )
        )
        self.counts[kind] += 1

    def _save(self, shot: Shot) -> ImageSource:
        stem = f"{self.name}-{shot.scene.style.name}-{shot.scene.seed}"
        image, depth = f"{stem}.png", f"{stem}.depth.png"
        for file, array in ((image, shot.rendering.pixels), (depth, shot.rendering.depth_mm)):
            with naming(self.pictures / file):
                Image.fromarray(array).save(self.draft / file, compress_level=PNG_EFFORT)
        return ImageSource(
            image=str(self.pictures / image),
            depth=str(self.pictures / depth),
            focal_length_px=shot.rendering.focal_length_px,
        )

    def _adapted(self, style: SceneStyle) -> SceneStyle:
        if self.order.size is not None:
            style = replace(
                style,
                width=self.order.size,
                height=self.order.size,
                focal_length_px=style.focal_length_px * self.order.size / style.height,
                size_px=_scaled(style.size_px, self.order.size / style.height),
            )
        if self.order.roll_deg is not None:
            style = replace(style, roll_deg=(-self.order.roll_deg, self.order.roll_deg))
        return style


def _scaled(pixels: tuple[float, float] | None, factor: float) -> tuple[float, float] | None:
    return None if pixels is None else (pixels[0] * factor, pixels[1] * factor)


# ---- what a look at the picture alone achieves on `nearer` --------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureRule:
    """A rule that names the nearer object from the picture alone."""

    name: str
    accuracy: float


def picture_rules(questions: Sequence[Question]) -> list[PictureRule]:
    """Every picture-only rule on ``nearer`` questions, best first; each may be used reversed."""
    hits: Counter[str] = Counter()
    num = 0
    for question in questions:
        votes = question.extra.get("picture_rules")
        if isinstance(votes, dict):
            num += 1
            hits.update(rule for rule, name in votes.items() if name == question.target)
            hits.update(dict.fromkeys(votes, 0))
    rules = []
    for rule, count in hits.items():
        share = count / num
        reverse = share < 0.5
        rules.append(
            PictureRule(
                name=f"not {rule}" if reverse else rule,
                accuracy=1 - share if reverse else share,
            )
        )
    return sorted(rules, key=lambda each: -each.accuracy)


def best_picture_rule(questions: Sequence[Question]) -> PictureRule:
    """The bar that a policy with tools must clear on ``nearer``."""
    rules = picture_rules(questions)
    if not rules:
        raise ConfigError("no question carries picture rules; only kind 'nearer' does")
    return rules[0]


# ---- command line -------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rl.tabletop",
        description="Make a data set about the tabletop world: OUT.parquet in the released layout\n"
        "(data_source, prompt, images, ability, reward_model, extra_info) and OUT_images/ beside\n"
        "it, each picture as NAME.png with its depth sensor image NAME.depth.png (millimetres).",
        epilog=_kinds_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("out", help="file to write; .parquet is added where it is missing")
    add("--kinds", default=",".join(DEMO_KINDS), help="comma-separated, or 'all' (%(default)s)")
    add("--num", type=int, default=100, help="questions of each kind (%(default)s)")
    add("--seed", type=int, default=0, help="which scenes (%(default)s)")
    add("--per-scene", type=int, default=1, help="most questions of a kind per picture (1)")
    add("--size", type=int, help="square pictures of this many pixels instead of the kind's size")
    add("--roll", type=float, help="cameras roll by up to this many degrees")
    add("--leftmost-margin", type=float, default=Margins().leftmost,
        help="least lead of the leftmost object as a share of the width (%(default)s)")  # fmt: skip
    add("--nearer-margin", type=float, default=Margins().nearer_m,
        help="least difference of compared depths in metres (%(default)s)")  # fmt: skip
    add("--force", action="store_true", help="overwrite an existing data set")
    add("--dry-run", action="store_true", help="say what would be made and stop")
    return parser


def _kinds_help() -> str:
    """Every kind with what answering it takes."""
    shown = {kind: ", ".join(task.tools) for kind, task in TASK_KINDS.items()}
    lines = [f"  {kind:<14}{shown[kind]}" for kind in TASK_KINDS]
    num = len(DEMO_KINDS)
    return "\n".join(
        [
            "kinds, and the tools that the scripted teacher answers them with:",
            "",
            "224x224, tools.config=demo; short enough for the demo's policies (max_length=320):",
            *lines[:num],
            "",
            "448x336, tools.config=light; prompts and traces need the default max_length of 8192:",
            *lines[num:],
            "",
            "Data sets of different seeds share no scene.",
        ]
    )


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m rl.tabletop``."""
    given = _parser().parse_args(words)
    return run_command(lambda: _run(given), "toolshed", "sft", "rl")


def _run(given: argparse.Namespace) -> int:
    kinds = tuple(TASK_KINDS) if given.kinds == "all" else tuple(given.kinds.split(","))
    order = Order(
        kinds=tuple(kind.strip() for kind in kinds),
        num=given.num,
        seed=given.seed,
        per_scene=given.per_scene,
        size=given.size,
        roll_deg=given.roll,
        margins=Margins(leftmost=given.leftmost_margin, nearer_m=given.nearer_margin),
    )
    path = parquet_path(given.out)
    order.check()
    if given.dry_run:
        print(f"would write {path}: {order.num} questions each of {', '.join(order.kinds)}")
        return 0
    questions = _written(path, order, force=given.force)
    pictures = {source.image for question in questions for source in question.images}
    print(f"{path}: {len(questions)} questions about {len(pictures)} pictures")
    if "nearer" in order.kinds:
        rule = best_picture_rule(questions)
        print(f"nearer: best picture-only rule '{rule.name}' is right in {rule.accuracy:.3f}")
    return 0


def _written(path: Path, order: Order, *, force: bool) -> list[Question]:
    """The data set, with a bar while it is made."""
    from tqdm import tqdm

    with tqdm(total=order.num * len(order.kinds), desc=path.name, disable=None) as bar:
        try:
            return write_dataset(
                path, order, force=force, progress=lambda done, _: bar.update(done - bar.n)
            )
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("nothing was written") from stop
