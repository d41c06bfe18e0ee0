"""The policy sees smaller pictures than its tools: in learner, engine and needs alike."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from rl.policy.scripted import ScriptedPolicy
from rl.policy.sglang.pictures import resized
from rl.rollout import Job, Limits, Player, run_episode
from rl.start.needs import check_room
from rl.tabletop.dataset import Order, make_questions
from rl.types import SamplingParams
from sft.render import Renderer
from toolshed.chat import write_call
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.shed import Toolshed
from toolshed.types import Json

LIGHT: dict[str, Json] = {
    "host": "local",
    "roborefer": {"backend": "light", "show": ["detect_one"]},
}


def noise(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(112, 112), (300, 500), (90, 400), (28, 28)])
def test_a_cap_holds_for_every_shape_and_the_engine_gets_that_very_picture(
    tiny: Path, size: tuple[int, int]
) -> None:
    capped, whole = Renderer.load(tiny, max_pixels=4000), Renderer.load(tiny)
    image = make_image(noise(*size))
    seen = capped.vision(image)
    assert seen.num_tokens * 28 * 28 <= 4000
    picture = resized(capped, image)
    again = make_image(np.asarray(picture))
    assert picture.width * picture.height == seen.num_tokens * 28 * 28
    # The engine's own processor, with the checkpoint's wider limits, leaves it as it is.
    for renderer in (capped, whole):
        assert np.array_equal(renderer.vision(again).patches, seen.patches)


def test_a_cap_above_the_checkpoint_s_changes_nothing_and_one_below_is_refused(tiny: Path) -> None:
    image = make_image(noise(300, 500))
    for cap in (0, 10**7):
        same = Renderer.load(tiny, max_pixels=cap).vision(image)
        assert same.grid == Renderer.load(tiny).vision(image).grid
    with pytest.raises(ConfigError, match="max_pixels=100 is below the 784 pixels"):
        Renderer.load(tiny, max_pixels=100)


def test_tools_get_the_whole_picture_and_points_need_no_conversion(
    tiny: Path, tmp_path: Path
) -> None:
    (question,) = make_questions(Order(kinds=("point",), num=1, seed=3), tmp_path, name="q")
    call = write_call("roborefer.detect_one", {"obj_name": "red cube", "image_index": 0})
    renderers = [Renderer.load(tiny), Renderer.load(tiny, max_pixels=28 * 28 * 4)]

    async def play(renderer: Renderer) -> tuple[str, str]:
        def script(prompt: object) -> str:
            return call if not getattr(prompt, "turn", 0) else "<answer>[(0.5, 0.5)]</answer>"

        async with Toolshed.open(parse_tools(LIGHT)) as shed:
            player = Player(
                policy=ScriptedPolicy(script), renderer=renderer, shed=shed, limits=Limits()
            )
            sampling = SamplingParams(temperature=0.0, max_tokens=200)
            played = await run_episode(Job(question=question, sampling=sampling), player)
        return played.turns[0].results[0].text, played.images[0].sha256

    large, small = (asyncio.run(play(renderer)) for renderer in renderers)
    assert large == small


def test_fewer_places_are_needed(tiny: Path, tmp_path: Path) -> None:
    questions = make_questions(Order(kinds=("point",), num=1, seed=3), tmp_path, name="q")
    whole, capped = Renderer.load(tiny), Renderer.load(tiny, max_pixels=28 * 28)
    prompt = len(whole.prompt(questions[0].messages))
    limits = {"max_tokens": 10, "max_length": prompt + 10}
    check_room(questions, (), capped, **limits)
    with pytest.raises(ConfigError, match="raise max_length"):
        check_room(questions, (), whole, **limits)
