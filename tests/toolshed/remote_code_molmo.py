"""A folder like Molmo's on the hub: a config that names code of its own, processor and weights.

The code has the interface that Molmo's has (``process``, ``generate_from_batch``); the model in it
writes one text, whatever it is asked. What is tested is the way there.
"""

from __future__ import annotations

import json
from pathlib import Path

WRITTEN = ' <points x1="12.5" y1="30.0" x2="60.0" y2="75.5" alt="cups">cups</points>'
_MODEL = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin

class TinyMolmoConfig(PretrainedConfig):
    model_type = "tiny_molmo"

class TinyMolmo(PreTrainedModel, GenerationMixin):
    config_class = TinyMolmoConfig

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Linear(3, 1, bias=False)
        self.post_init()

    def generate_from_batch(self, batch, generation_config, tokenizer):
        assert generation_config.do_sample is False
        assert generation_config.stop_strings == "<|endoftext|>"
        assert batch["images"].dtype == self.dtype and batch["images"].ndim == 4
        assert batch["input_ids"].dtype == torch.int64
        self.scale(batch["images"])
        new = torch.tensor([tokenizer.encode_written(batch["input_ids"])])
        return torch.cat([batch["input_ids"], new], dim=1)
"""
_PROCESSOR = """
import numpy as np
import torch
from transformers.processing_utils import ProcessorMixin

WRITTEN = {written!r}

class Tokenizer:
    def encode_written(self, prompt):
        text = "There are none." if "purple" in self.decode(prompt[0]) else WRITTEN
        return [ord(each) for each in text]

    def decode(self, numbers, skip_special_tokens=True):
        return "".join(map(chr, numbers.tolist()))

class TinyMolmoProcessor(ProcessorMixin):
    attributes = []

    def __init__(self):
        self.tokenizer = Tokenizer()

    @classmethod
    def from_pretrained(cls, path, **settings):
        return cls()

    def process(self, images, text):
        (image,) = images
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32)) / 255
        return {{"input_ids": torch.tensor([ord(each) for each in text]), "images": pixels}}
"""


def write_remote_code_molmo(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    auto = {
        "AutoConfig": "modeling_tiny.TinyMolmoConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyMolmo",
        "AutoProcessor": "processing_tiny.TinyMolmoProcessor",
    }
    config = {"model_type": "tiny_molmo", "architectures": ["TinyMolmo"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"processor_class": "TinyMolmoProcessor", "auto_map": auto}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    (folder / "modeling_tiny.py").write_text(_MODEL)
    (folder / "processing_tiny.py").write_text(_PROCESSOR.format(written=WRITTEN))
    weights = {"scale.weight": torch.ones(1, 3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
