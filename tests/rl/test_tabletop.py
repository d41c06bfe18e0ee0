"""Tabletop data sets: every kind is fair, exact, in the released layout, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rl.questions.data import load_questions
from rl.rewards import KINDS
from rl.rewards.geometry import decode_mask
from rl.tabletop import wording
from rl.tabletop.dataset import (
    Order,
    best_picture_rule,
    main,
    make_questions,
    picture_rules,
    write_dataset,
)
from rl.tabletop.kinds import TASK_KINDS, Margins, Shot, free_region, picture_votes, table_point
from rl.types import Question
from tests.sft.limits import largest_file
from toolshed.errors import ConfigError
from toolshed.images import load_image
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import DEMO, MANIPULATION, NEARER, SceneStyle, make_scene


def shot(seed: int, style: SceneStyle) -> Shot:
    scene = make_scene(seed, style)
    return Shot(scene=scene, rendering=render(scene, noise_seed=0))


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    out = tmp_path_factory.mktemp("tabletop") / "all"
    write_dataset(out, Order(kinds=tuple(TASK_KINDS), num=6, seed=900, per_scene=2))
    return load_questions(out.with_suffix(".parquet"))


def test_every_kind_loads_and_is_asked_in_its_wording(every_kind: list[Question]) -> None:
    assert {question.kind for question in every_kind} == set(KINDS)
    for kind, task in TASK_KINDS.items():
        mine = [question for question in every_kind if question.source == f"tabletop-{kind}"]
        assert len(mine) == 6
        for question in mine:
            asked = wording.asked(question.messages[-1].text)
            assert asked is not None and asked.kind == kind
            assert len(question.images) == int(task.with_picture)
            assert (question.scene is None) == task.with_picture
            assert question.messages[0].text == task.instruction


def test_demo_pictures_are_small_and_carry_depth(every_kind: list[Question]) -> None:
    sizes = {}
    for question in every_kind:
        for source in question.images:
            image = load_image(source)
            assert image.depth_mm is not None and image.focal_length_px
            sizes[question.source.removeprefix("tabletop-")] = (image.width, image.height)
    assert {sizes[kind] for kind in wording.DEMO_KINDS} == {(224, 224)}
    assert {sizes[kind] for kind in sizes if kind not in wording.DEMO_KINDS} == {(448, 336)}


def test_data_sets_repeat_exactly(tmp_path: Path) -> None:
    order = Order(kinds=("point", "nearer", "place"), num=3, seed=5)
    first, second = (
        make_questions(order, tmp_path / name, name="same") for name in ("first", "second")
    )
    assert [q.target for q in first] == [q.target for q in second]
    assert [q.messages for q in first] == [q.messages for q in second]
    pixels = [load_image(q.images[0]).pixels for q in (first[0], second[0])]
    assert np.array_equal(pixels[0], pixels[1])
    other = make_questions(Order(kinds=("point",), num=3, seed=6), tmp_path / "third")
    assert {q.target for q in other}.isdisjoint(q.target for q in first)


@pytest.mark.parametrize("seed", range(12))
def test_depths_are_of_the_visible_surface_at_the_middle(seed: int) -> None:
    taken = shot(seed, DEMO)
    drafts = TASK_KINDS["depth"].make(taken, Margins(), np.random.default_rng(0))
    for index, draft in enumerate(drafts):
        pixels = np.argwhere(taken.rendering.ids == index)
        middle = pixels[((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        assert float(draft.target) == pytest.approx(
            float(taken.rendering.depth_m[tuple(middle)]), abs=1e-4
        )


@pytest.mark.parametrize("seed", range(12))
def test_leftmost_leads_by_its_margin(seed: int) -> None:
    taken = shot(seed, DEMO)
    drafts = TASK_KINDS["leftmost"].make(taken, Margins(), np.random.default_rng(0))
    columns = sorted(float(np.nonzero(taken.rendering.ids == i)[1].mean()) / 224 for i in
                     range(len(taken.scene.objects)))  # fmt: skip
    assert len(drafts) == int(columns[1] - columns[0] >= 0.15)
    loose = TASK_KINDS["leftmost"].make(taken, Margins(leftmost=0.0), np.random.default_rng(0))
    first = taken.scene.objects[int(np.argmin(taken.middles_u()))]
    assert loose[0].facts["leftmost"] == first.colour


@pytest.mark.parametrize("seed", range(8))
def test_compared_depths_are_apart(seed: int) -> None:
    taken = shot(seed, NEARER)
    depths = dict(zip(taken.names, taken.depths_m(), strict=True))
    for draft in TASK_KINDS["nearer"].make(taken, Margins(), np.random.default_rng(seed)):
        first, second = (str(name) for name in json.loads(json.dumps(draft.facts["choices"])))
        assert abs(depths[first] - depths[second]) >= 0.03
        assert draft.target == min((first, second), key=lambda name: depths[name])


def test_no_picture_rule_solves_nearer() -> None:
    hits: dict[str, int] = {}
    num = 0
    for seed in range(150):
        taken = shot(40_000 + seed, NEARER)
        depths = taken.depths_m()
        if abs(depths[0] - depths[1]) >= 0.03:
            num += 1
            nearest = taken.names[int(depths[1] < depths[0])]
            for rule, name in picture_votes(taken, 0, 1).items():
                hits[rule] = hits.get(rule, 0) + (name == nearest)
    assert max(max(count, num - count) / num for count in hits.values()) <= 0.78


def test_best_rule_may_be_a_reversed_one(every_kind: list[Question]) -> None:
    rules = picture_rules(every_kind)
    assert all(0.5 <= rule.accuracy <= 1.0 for rule in rules)
    assert best_picture_rule(every_kind) == rules[0]
    with pytest.raises(ConfigError, match="nearer"):
        best_picture_rule([q for q in every_kind if q.source == "tabletop-point"])


@pytest.mark.parametrize("seed", range(6))
def test_free_regions_show_the_table_beside_the_object(seed: int) -> None:
    taken = shot(seed, MANIPULATION)
    for index in range(len(taken.scene.objects)):
        columns = np.nonzero(taken.rendering.ids == index)[1]
        for direction in wording.DIRECTIONS:
            region = free_region(taken, index, direction)
            if region is not None:
                assert (taken.rendering.ids[region] == -1).all()
                where = np.nonzero(region)[1]
                left = direction == "left"
                assert where.max() < columns.min() if left else where.min() > columns.max()


def test_goals_lie_under_their_picture_point(every_kind: list[Question]) -> None:
    for question in every_kind:
        if question.source == "tabletop-place":
            asked = wording.asked(question.messages[-1].text)
            assert asked is not None and question.scene is not None
            scene = make_scene(question.scene, MANIPULATION)
            goal = json.loads(str(question.target))
            x, y = table_point(scene, float(asked.point[0]), float(asked.point[1]))
            assert (x, y) == pytest.approx((goal["x"], goal["y"]), abs=1e-3)
            uv = scene.camera.project(np.array([x, y, 0.0]))
            assert uv == pytest.approx([float(c) for c in asked.point], abs=1e-6)


def test_points_are_masks(every_kind: list[Question]) -> None:
    masks = [decode_mask(str(q.target)) for q in every_kind if q.kind == "point_object"]
    assert all(mask.any() and not mask.all() for mask in masks)


def test_size_and_roll_change_the_camera(tmp_path: Path) -> None:
    order = Order(kinds=("point",), num=2, size=112, roll_deg=20.0)
    questions = make_questions(order, tmp_path)
    assert load_image(questions[0].images[0]).width == 112


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(kinds=("points",)), "unknown kind 'points'"),
        (Order(kinds=()), "no kinds"),
        (Order(num=0), "at least 1"),
        (Order(kinds=("pick",), size=112), "robot's own world"),
        (Order(size=8), "out of range"),
        (Order(seed=-3), "seed -3 "),
        (Order(roll_deg=float("nan")), "roll nan"),
        (Order(margins=Margins(leftmost=-0.1)), "margins -0.1"),
        (Order(margins=Margins(nearer_m=float("nan"))), "nan"),
    ],
)
def test_impossible_orders_stop_before_any_work(order: Order, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_questions(order, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_data_set_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(kinds=("point",), num=3, seed=9)
    old = write_dataset(tmp_path / "set", order)
    before = sorted(tmp_path.rglob("*"))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("set", "new"):
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path / name, order, force=True, progress=stop)
    assert sorted(tmp_path.rglob("*")) == before
    assert load_questions(tmp_path / "set.parquet")[0].images == old[0].images
    monkeypatch.setattr("rl.tabletop.dataset.write_dataset", stop)
    assert main([str(tmp_path / "new")]) == 130
    assert capsys.readouterr().err.endswith("interrupted; nothing was written\n")


def test_a_disk_that_takes_no_more_is_said_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sft.run_dir._TRIED_BYTES", 1)
    with largest_file(20_000):
        assert main([str(tmp_path / "set"), "--kinds", "point", "--num", "2"]) == 2
    told = capsys.readouterr().err
    assert f"error: {tmp_path}/set_images/set-demo-" in told and "too large" in told
    assert not list(tmp_path.iterdir())


def test_data_sets_of_one_folder_keep_their_pictures_apart(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_dataset(tmp_path / name, Order(kinds=("point",), num=1, seed=len(name)))
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"train.parquet", "train_images", "test.parquet", "test_images"}
    write_dataset(tmp_path / "picks", Order(kinds=("pick",), num=1))
    assert not (tmp_path / "picks_images").exists()
    (tmp_path / "mine_images").mkdir()
    with pytest.raises(ConfigError, match="mine_images exists"):
        write_dataset(tmp_path / "mine", Order(kinds=("point",), num=1))


@pytest.mark.parametrize("out", ["", " ", "folder"])
def test_a_data_set_needs_a_file(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert main([out]) == 2
    assert f"OUT {out!r} is no file; name one, for example " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "set")
    words = [out, "--kinds", "point,nearer", "--num", "2", "--seed", "3"]
    assert main([*words, "--dry-run"]) == 0 and not list(tmp_path.iterdir())
    assert main(words) == 0
    assert "best picture-only rule" in capsys.readouterr().out
    assert main(words) == 2 and "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert main([out, "--kinds", "nothing"]) == 2
