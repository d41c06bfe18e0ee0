"""Grasps by GraspGen, in the Python 3.10 of its own stack: the far side of the bridge.

Diffusion draws random numbers; they are seeded before every call, so equal calls have equal
answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from toolshed.backends.checkpoints import found, memory_errors, needed
from toolshed.backends.grasp_filters import FilteredGrasping, Sampled
from toolshed.errors import ConfigError

DOWN = (0.0, 0.7, 0.3)
"""Direction of gravity for a camera that looks obliquely down on a table."""


class GraspGen(FilteredGrasping):
    """GraspGen's sampler in this process."""

    environment: ClassVar[str] = "graspgen"

    def __init__(
        self,
        *,
        gripper_config: str | None = None,
        num_grasps: int = 200,
        top_grasps: int = 100,
        approach_direction: list[float] | None = None,
        min_approach_cosine: float = 0.5,
        clearance_m: float = 0.01,
        num_scene_points: int = 8192,
        seed: int = 0,
    ) -> None:
        """``gripper_config`` is GraspGen's YAML of the gripper, with the paths of its weights;
        ``approach_direction`` is gravity in the camera frame, any length."""
        super().__init__(
            num_grasps=num_grasps,
            top_grasps=top_grasps,
            approach_direction=list(DOWN if approach_direction is None else approach_direction),
            min_approach_cosine=min_approach_cosine,
            clearance_m=clearance_m,
            num_scene_points=num_scene_points,
            seed=seed,
        )
        if gripper_config is None or not Path(gripper_config).is_file():
            raise ConfigError(
                f"gripper_config = {gripper_config!r} is no file; give the path of "
                "graspgen_franka_panda.yml beside its weights"
            )
        server = needed("grasp_gen.grasp_server", self.environment)
        with found(gripper_config, self.environment):
            self._sampler = server.GraspGenSampler(server.load_grasp_cfg(gripper_config))
        self._run = server.GraspGenSampler.run_inference

    def sampled(self, points_m: npt.NDArray[np.float32]) -> Sampled:
        import torch

        torch.manual_seed(self.seed)
        # Its farthest-point sampling starts at numpy's global generator.
        np.random.seed(self.seed)
        with torch.inference_mode(), memory_errors():
            poses, confidences = self._run(
                points_m,
                self._sampler,
                grasp_threshold=-1.0,
                num_grasps=self.num_grasps,
                topk_num_grasps=self.top_grasps,
            )
        if len(poses) == 0:
            return np.zeros((0, 4, 4)), np.zeros(0)
        return poses.cpu().double().numpy(), confidences.cpu().double().numpy().reshape(-1)
