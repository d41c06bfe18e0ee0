"""Molmo, first generation: toolshed.backends.molmo:Molmo runs foreign code only when told to."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.toolshed.contracts import Asked, check_absent, check_pointing, table_picture
from tests.toolshed.remote_code_molmo import write_remote_code_molmo
from toolshed.errors import ConfigError

LOCATION = "toolshed.backends.molmo:Molmo"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with code of its own; what transformers copies of it goes elsewhere."""
    import transformers.dynamic_module_utils as modules

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    made = tmp_path / "molmo"
    made.mkdir()
    write_remote_code_molmo(made)
    return made


def test_without_a_word_of_trust_no_code_runs(folder: Path) -> None:
    (folder / "modeling_tiny.py").write_text("raise AssertionError('this ran')")
    with pytest.raises(ConfigError, match="trust_remote_code: true") as caught:
        Asked("vlm", LOCATION, {"model_id": str(folder)})
    assert "backend: molmo2" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_d31_greedy_answers_in_the_dtype_asked_for(folder: Path, dtype: str) -> None:
    """The release ignored its dtype, loaded 32 GiB, and drew its answers at random."""
    given = {"model_id": str(folder), "trust_remote_code": True, "dtype": dtype, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        molmo = Asked("vlm", LOCATION, {**given, "ask_one": "Where is the {obj_name}?"})
    model = molmo.back_end._instance._model
    assert str(model.dtype) == f"torch.{dtype}" and not model.training
    check_pointing(molmo)
    check_absent(molmo)
    answer = molmo.answer("detect_all", image=table_picture(), obj_name="cup")
    assert answer.text == (
        "Detected 2 instance(s) of 'cup': [(0.125, 0.3), (0.6, 0.755)] "
        "Kept for later calls: $cup_detections (list, 2 points)."
    )


def test_what_is_asked_must_hold_the_name_once(folder: Path) -> None:
    for template in ("Point!", "{obj_name} {obj_name}", "{other}", "{obj_name.__class__}"):
        with pytest.raises(ConfigError, match="obj_name"):
            Asked("vlm", LOCATION, {"trust_remote_code": True, "ask_all": template})
