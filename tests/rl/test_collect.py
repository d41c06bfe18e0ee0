"""Collected traces are right, whole and reproducible; broken tools and bad input write none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from rl.collect import CollectConfig, collect, main, prepare
from rl.collection.prepare import Collection
from rl.policy.sglang.config import EngineConfig
from rl.questions.data import check_depth, load_questions, write_questions
from rl.rewards import DEMO_RULE
from rl.tabletop.dataset import Order, write_dataset
from sft.config import ToolsConfig
from sft.data import load_transcripts
from toolshed.errors import ConfigError, ToolFailure
from toolshed.images import ImageSource, load_image
from toolshed.shed import Toolshed
from toolshed.tools.depth import Depth
from toolshed.toolset import ToolSet
from toolshed.types import DepthEstimate, ToolImage

TOLERANT = ToolsConfig(config="demo", schema="any")


class BrokenDepth(Depth):
    """Works for bright pictures only, so that a seeded share of the calls fails."""

    def __init__(self, share: float) -> None:
        self._share = share

    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        if int(image.sha256[:4], 16) / 0x10000 < self._share:
            raise ToolFailure("out_of_memory", "no memory left on the device")
        depth = np.asarray(image.depth_mm, dtype=np.float32) / np.float32(1000)
        return DepthEstimate(depth_m=depth, focal_length_px=250.0)

    def estimate_depth_with_pointcloud(self, image: ToolImage) -> DepthEstimate:
        return self.estimate_depth(image)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collect") / "questions.parquet"
    write_dataset(out, Order(kinds=("point", "depth"), num=8, seed=31))
    return out


def local(config: str | Path = "demo") -> Toolshed:
    return Toolshed.open(config, host="local")


def ready(data: Path, out: Path, config: CollectConfig | None = None) -> Collection:
    return prepare("teacher", data, out, config or CollectConfig(reward=DEMO_RULE))


def test_the_teachers_traces_are_kept_whole(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.json"
    with local() as shed:
        done = collect(ready(data, out), shed)
    assert (done.num_kept, done.num_rejected, done.num_failed) == (16, 0, 0)
    rows = json.loads(out.read_text())
    assert len(rows) == 16 and rows[3]["dataset_index"] == 3
    assert {row["source"] for row in rows} == {"teacher"}
    assert {row["question_type"] for row in rows} == {"point", "depth"}
    assert all(len(row["tools_schema_hash"]) == 64 and row["score"] == 1.0 for row in rows)
    assert all("<tools>" not in row["system"] for row in rows)
    transcripts = load_transcripts(out)
    assert all(t.messages[-1].text.endswith("</answer>") for t in transcripts)
    assert load_image(transcripts[0].images[0]).width == 224


def test_the_same_command_gives_the_same_file(data: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        with local() as shed:
            collect(ready(data, tmp_path / name / "traces.json"), shed)
    texts = [(tmp_path / name / "traces.json").read_text() for name in ("first", "second")]
    assert texts[0] == texts[1]


def test_pictures_that_the_robot_takes_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "pick.parquet"
    write_dataset(path, Order(kinds=("pick",), num=2, seed=8))
    config = CollectConfig(tools=ToolsConfig(config="light"))
    with local("light") as shed:
        done = collect(ready(path, tmp_path / "picks.json", config), shed)
    assert done.num_kept + done.num_rejected == 2
    for transcript in load_transcripts(tmp_path / "picks.json"):
        assert transcript.images and all(load_image(i).width == 448 for i in transcript.images)


def test_broken_tools_are_counted_and_their_traces_dropped(data: Path, tmp_path: Path) -> None:
    tools = {"replies": "compact"} | {
        name: {"backend": "light"} for name in ("roborefer", "vision_ops")
    }
    for share, works in ((0.4, True), (1.0, False)):
        broken = {"backend": "tests.rl.test_collect:BrokenDepth", "arguments": {"share": share}}
        path = tmp_path / f"tools_{share}.yaml"
        path.write_text(yaml.safe_dump(tools | {"depth_estimator": broken}))
        config = CollectConfig(tools=ToolsConfig(config=str(path)), max_failure_share=0.4)
        out = tmp_path / f"traces_{share}.json"
        with local(path) as shed:
            if works:
                done = collect(ready(data, out, config), shed)
                assert 0 < done.num_failed < 8 and done.num_kept >= 8
            else:
                with pytest.raises(ToolFailure, match=r"[78] of 16 trajectories failed"):
                    collect(ready(data, out, config), shed)
                assert not out.exists()


def test_samples_and_keep(data: Path, tmp_path: Path) -> None:
    config = CollectConfig(samples=3, keep=2, limit=4, reward=DEMO_RULE, source="distilled")
    with local() as shed:
        done = collect(ready(data, tmp_path / "traces.json", config), shed)
    assert (done.num_kept, done.num_rejected) == (8, 4)
    assert sum(done.reasons.values()) == 4
    assert all(reason.endswith(": keep is reached") for reason in done.reasons)
    rows = json.loads((tmp_path / "traces.json").read_text())
    assert len({row["task_id"] for row in rows}) == 8
    assert {row["source"] for row in rows} == {"distilled"}


def test_light_depth_needs_depth_images(data: Path, tmp_path: Path) -> None:
    flat = [
        replace(question, images=tuple(ImageSource(image=i.image) for i in question.images))
        for question in load_questions(data)
    ]
    write_questions(tmp_path / "flat.parquet", flat)
    with pytest.raises(ConfigError, match="without a depth image"):
        prepare("teacher", tmp_path / "flat.parquet", tmp_path / "x.json", CollectConfig())
    check_depth(flat, ToolSet.named("point"), "point")


def test_bad_input_stops_before_any_work(data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("[]")
    with pytest.raises(ConfigError, match="--force"):
        ready(data, taken)
    with pytest.raises(ConfigError, match="min_score"):
        CollectConfig(min_score=2.0)
    with pytest.raises(ConfigError):
        prepare(str(tmp_path / "no_checkpoint"), data, tmp_path / "x.json", CollectConfig())
    for out, said in (("", "no file to write"), (tmp_path, "is a folder"), ("/proc/x", "/proc")):
        with pytest.raises(ConfigError, match=said):
            prepare("teacher", data, out, CollectConfig())
    with pytest.raises(ConfigError, match="limit=-2"):
        CollectConfig(limit=-2)
    poses = tmp_path / "pose.parquet"
    write_dataset(poses, Order(kinds=("pose",), num=1))
    with pytest.raises(ConfigError, match=r"tabletop-pose .*compute_bbox.*tools\.config=light"):
        ready(poses, tmp_path / "x.json")


def test_a_policy_without_room_for_the_prompt_is_refused(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    config = CollectConfig(max_tokens=100, max_length=120, tools=TOLERANT)
    with pytest.raises(ConfigError, match=r"needs .* places, max_tokens=100 .* max_length is 120"):
        prepare(str(tiny), data, tmp_path / "x.json", config)


def test_engines_that_are_not_there_are_said_before_any_work(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    engine = EngineConfig(environment="nowhere")
    config = CollectConfig(policy="sglang", tools=TOLERANT, engine=engine)
    with pytest.raises(ConfigError, match="nowhere"):
        prepare(str(tiny), data, tmp_path / "x.json", config)
    served = CollectConfig(policy="sglang", tools=TOLERANT, engine=EngineConfig(dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"decided by dtype= here"):
        prepare(str(tiny), data, tmp_path / "x.json", served)


def test_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["teacher", str(data), str(tmp_path / "traces.json"), "--dry-run"]
    assert main([*words, "samples=2"]) == 0
    assert "would play 32 trajectories" in capsys.readouterr().out
    assert main([*words, "min_scor=1"]) == 2
    assert "min_score" in capsys.readouterr().err
    assert not (tmp_path / "traces.json").exists()


def test_pictures_are_found_where_the_folder_is_a_link(data: Path, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "far" / "away")
    out = tmp_path / "runs" / "traces.json"
    with local() as shed:
        collect(ready(data, out, CollectConfig(reward=DEMO_RULE, limit=2)), shed)
    assert all(Path(t.images[0].image).is_file() for t in load_transcripts(out))
