"""Stand-ins for packages that no registry has: ``llava`` and ``grasp_gen``, with the calls that
our back-ends make of them. They are written into a folder that a test puts on the path."""

from __future__ import annotations

from pathlib import Path

_LLAVA = """
import types

class _Generation:
    def update(self, **settings):
        self.__dict__.update(settings)

class _Model:
    default_generation_config = _Generation()

    def __init__(self, path, dtype):
        self.path, self.dtype = path, dtype

    def generate_content(self, parts, generation_config):
        picture, text = parts
        assert generation_config.do_sample is False and picture.mode == "RGB"
        if "purple" in text:
            return "[]"
        return "[(0.25, 0.5), (0.75, 0.125)]"

def load(path, torch_dtype):
    return _Model(path, torch_dtype)
"""
_GRASP_GEN = """
import numpy as np
import torch

def load_grasp_cfg(path):
    return {"path": path}

class GraspGenSampler:
    def __init__(self, config):
        self.config = config

    @staticmethod
    def run_inference(points, sampler, grasp_threshold, num_grasps, topk_num_grasps):
        assert grasp_threshold == -1.0 and (num_grasps, topk_num_grasps) == (200, 100)
        assert points.dtype == np.float32 and sampler.config["path"]
        down = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]])
        poses = torch.eye(4).repeat(20, 1, 1)
        poses[:, :3, :3] = down
        noise = 0.01 * torch.rand(20, 1)
        poses[:, :3, 3] = torch.from_numpy(points).mean(dim=0) - down[:, 2] * (0.11 + noise)
        return poses, torch.rand(20)
"""


def write_llava(folder: Path) -> None:
    (folder / "llava.py").write_text(_LLAVA)


def write_grasp_gen(folder: Path) -> None:
    package = folder / "grasp_gen"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "grasp_server.py").write_text(_GRASP_GEN)
