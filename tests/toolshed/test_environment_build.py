"""Tool environments made for real: once, whole or not at all, and apart from ours."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from toolshed.commands import env
from toolshed.environments.build import create, site_packages
from toolshed.environments.environment import doctor, runtime_env
from toolshed.environments.preflight import version_of
from toolshed.environments.recipes import shipped_folder
from toolshed.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def envs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environments of a test are its own."""
    monkeypatch.setenv("TOOLSHED_ENVS", str(tmp_path / "envs"))
    return tmp_path / "envs"


def small_recipe(folder: Path, requirements: str = "numpy") -> str:
    """Path of a recipe that is made in seconds: a bridge to our own Python needs numpy alone."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    text = f'kind: bridge\npython: "{version}"\nimport_check: [numpy]\n'
    (folder / "env.yaml").write_text(text)
    (folder / "requirements.in").write_text(requirements + "\n")
    return str(folder)


def test_an_environment_is_made_once_and_again_when_its_recipe_changes(
    tmp_path: Path, envs: Path
) -> None:
    recipe = small_recipe(tmp_path / "small")
    said: list[str] = []
    first = create(recipe, say=said.append)
    assert "made in" in said[-1] and [each.state for each in doctor([recipe])] == ["ok"]
    said.clear()
    assert create(recipe, say=said.append) == first
    assert said == [f"small: up to date in {envs / 'small'}"]

    (tmp_path / "small" / "requirements.in").write_text("numpy>=1\n")
    assert [each.state for each in doctor([recipe])] == ["stale"]
    second = create(recipe)
    assert second.prefix != first.prefix and doctor([recipe])[0].state == "ok"
    assert first.python.exists(), "replicas at work keep what they started from"
    third = create(recipe, force=True)
    assert third.python.exists() and second.python.exists() and not first.prefix.exists()


def test_cpu_changes_nothing_where_nothing_has_a_cpu_form(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path / "small")
    said: list[str] = []
    create(recipe, say=said.append)
    create(recipe, cpu=True, say=said.append)
    assert "up to date" in said[-1]


def test_a_broken_environment_is_found_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small_recipe(tmp_path / "small")
    made = create(recipe)
    shutil.rmtree(site_packages(made.prefix) / "numpy")
    assert env.main(["doctor", recipe]) == 3
    said = capsys.readouterr().out
    assert re.search(r"^small +bridge +broken", said, re.MULTILINE)
    assert (
        "module numpy does not import" in said
        and f"next: toolshed env create {recipe} --force" in said
    )
    command = re.findall(r"next: toolshed env (.*)", said)[0].split()
    assert env.main(command) == 0
    assert env.main(["doctor", recipe]) == 0


def test_what_fails_leaves_nothing_and_says_which_step(tmp_path: Path, envs: Path) -> None:
    recipe = small_recipe(tmp_path / "small", "numpy==0.0.1")
    with pytest.raises(ConfigError, match=r"small: its requirements: failed(.|\n)*numpy==0.0.1"):
        create(recipe)
    assert os.listdir(envs / ".builds" / "small") == [] and not (envs / "small").exists()
    recipe = small_recipe(tmp_path / "small")
    (tmp_path / "small" / "env.yaml").write_text(
        (tmp_path / "small" / "env.yaml").read_text().replace("[numpy]", "[numpy, nothing_such]")
    )
    with pytest.raises(ConfigError, match="module nothing_such does not import"):
        create(recipe)
    assert os.listdir(envs / ".builds" / "small") == [] and not (envs / "small").exists()


def start_creating(recipe: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "toolshed.cli", "env", "create", recipe],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_build_is_never_seen(tmp_path: Path, envs: Path, how: int) -> None:
    recipe = small_recipe(tmp_path / "small")
    with start_creating(recipe) as building:
        assert building.stdout is not None
        building.stdout.readline()
        building.send_signal(how)
        said = building.stdout.read()
    assert doctor([recipe])[0].state == "missing"
    if how == signal.SIGINT:
        assert building.returncode == 130 and "half made is removed" in said
        assert os.listdir(envs / ".builds" / "small") == []
    create(recipe)
    assert doctor([recipe])[0].state == "ok"
    assert len(os.listdir(envs / ".builds" / "small")) == 1


def test_two_that_make_the_same_make_it_once(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path / "small")
    with start_creating(recipe) as one, start_creating(recipe) as other:
        texts = [one.communicate(timeout=120)[0], other.communicate(timeout=120)[0]]
    assert (one.returncode, other.returncode) == (0, 0)
    assert sorted("made in" in text for text in texts) == [False, True]
    assert any("another process is making it" in text for text in texts)


def test_an_environment_has_our_package_and_none_of_our_packages() -> None:
    made = create(str(ROOT / "tests" / "environments" / "numpy1"), name="apart")
    script = (
        "import importlib.util, sys, toolshed.codec, toolshed.backend, ray, numpy\n"
        "print(toolshed.__file__, ray.__version__, numpy.__version__)\n"
        "print([n for n in ('pytest', 'mypy', 'mujoco') if importlib.util.find_spec(n)])\n"
        "print(*sys.path, sep='\\n')"
    )
    done = subprocess.run(
        [str(made.python), "-c", script], cwd="/", capture_output=True, text=True, check=True
    )
    versions, others, *paths = done.stdout.splitlines()
    place, ray, numpy = versions.split()
    assert Path(place).resolve() == ROOT / "toolshed" / "__init__.py"
    assert (ray, numpy) == (version_of("ray"), "1.26.4")
    assert others == "[]" and not [path for path in paths if ".venv" in path]
    found = runtime_env("apart", ["toolshed.backends.light_vision_ops"])
    assert found["py_executable"] == str(made.python)


def test_pip_does_the_work_where_uv_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolshed.environments.installers._own", lambda program: None)
    monkeypatch.setattr("toolshed.environments.installers._fetched", lambda folder, say: None)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    recipe = small_recipe(tmp_path / "small")
    create(recipe, python=Path(os.path.realpath(sys.executable)))
    assert doctor([recipe])[0].state == "ok"


def test_a_conda_prefix_is_filled_as_a_venv_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands in for conda, which no package index has: an interpreter at the prefix is all we use.
    program = tmp_path / "bin" / "micromamba"
    program.parent.mkdir()
    python = os.path.realpath(sys.executable)
    program.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "create --yes --prefix" ] || exit 1\n'
        f'{python} -m venv --without-pip "$4" && mkdir "$4/conda-meta"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    folder = Path(small_recipe(tmp_path / "small"))
    (folder / "env.yaml").write_text("kind: conda\nimport_check: [numpy]\n")
    made = create(str(folder))
    variables = runtime_env(str(folder))["env_vars"]
    assert isinstance(variables, dict)
    assert variables["CONDA_PREFIX"] == str(made.prefix)
    assert variables["LD_LIBRARY_PATH"].startswith(str(made.prefix / "lib"))


def test_uv_is_fetched_where_it_is_not_there(
    tmp_path: Path, envs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolshed.environments.installers._own", lambda program: None)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said: list[str] = []
    recipe = small_recipe(tmp_path / "small")
    create(recipe, python=Path(os.path.realpath(sys.executable)), say=said.append)
    assert "fetching uv (about 40 MB)" in said and (envs / ".uv" / "bin" / "uv").exists()


def test_a_cpu_environment_imports_torchvision_whose_operators_are_placeholders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The one of the checkout: 1.3 GB that other tests use as well.
    monkeypatch.delenv("TOOLSHED_ENVS")
    made = create("sam2", cpu=True)
    script = (
        "import torch, torchvision_placeholders as shim\n"
        "from torchvision.ops import nms\n"
        "from torchvision.transforms.v2 import functional\n"
        "assert functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)\n"
        "box, score = torch.tensor([[0., 0., 1., 1.]]), torch.ones(1)\n"
        "for call in (nms, torch.ops.torchvision.nms):\n"
        "    try:\n"
        "        call(box, score, 0.5)\n"
        "    except (RuntimeError, NotImplementedError) as error:\n"
        "        print(type(error).__name__)\n"
        "print(torch.version.cuda, len(shim.OPERATORS))\n"
    )
    done = subprocess.run(
        [str(made.python), "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    if done.stdout.split()[-2:-1] != ["None"]:
        pytest.skip(f"this machine's torch is a CUDA build: {done.stdout}{done.stderr}")
    assert done.stdout.split() == ["RuntimeError", "NotImplementedError", "None", "12"]
    main = subprocess.run([sys.executable, "-c", "import torchvision_placeholders"], check=False)
    assert main.returncode == 1, "the placeholders are for tool environments alone"
    assert (shipped_folder() / "cpu_shims" / "torchvision_placeholders.py").is_file()
