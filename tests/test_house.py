"""The rules of docs/HOUSE.md, held by tests."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("toolshed", "sft", "rl", "eval")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CONFIG_FIELDS = 25
HEAVY = ("torch", "transformers", "ray", "mujoco", "sglang", "scipy", "hydra")


def sources(room: str) -> Iterator[Path]:
    return (path for path in sorted((ROOT / room).rglob("*.py")) if "__pycache__" not in path.parts)


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_to_its_left(room: str) -> None:
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    wrong = {str(p.relative_to(ROOT)): imported_rooms(p) - allowed for p in sources(room)}
    assert not {path: rooms for path, rooms in wrong.items() if rooms}


def test_importing_toolshed_loads_nothing_heavy() -> None:
    script = (
        "import sys, toolshed, toolshed.shed, toolshed.chat, toolshed.toolset\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_replicas_and_the_bridge_need_numpy_and_the_standard_library_alone() -> None:
    script = (
        "import sys, toolshed.serving.replica, toolshed.environments.bridge_child\n"
        "import toolshed.tools.pointing\n"
        "print([name for name in ('pydantic', 'yaml', 'docstring_parser', 'PIL', 'ray') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def tracked_files() -> set[str]:
    """Every file that belongs to the repository, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_map_equals_the_tree() -> None:
    text = (ROOT / "docs" / "HOUSE.md").read_text()
    mapped = re.findall(r"^\| `([^`]+)` \| \S", text.partition("## The map")[2], re.MULTILINE)
    assert len(mapped) == len(set(mapped)), "a file is mapped twice"
    assert set(mapped) == tracked_files()


def test_the_builtin_eval_is_never_hidden() -> None:
    for room in ROOMS:
        for path in sources(room):
            for node in ast.walk(ast.parse(path.read_text())):
                names = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
                bound = {alias.asname or alias.name.split(".")[0] for alias in names}
                assert "eval" not in bound, f"{path} binds the name eval"
    assert eval is builtins.eval


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_found_in_this_checkout(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().is_relative_to(ROOT)


def test_files_and_functions_stay_short() -> None:
    too_long = []
    for room in (*ROOMS, "scripts", "tests"):
        for path in sources(room):
            text = path.read_text()
            if text.count("\n") > MAX_FILE_LINES:
                too_long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    if length > MAX_FUNCTION_LINES:
                        too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {length}")
    assert not too_long


def test_configs_stay_small() -> None:
    too_many = []
    for room in ROOMS:
        for path in sources(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                    num = sum(isinstance(each, ast.AnnAssign) for each in node.body)
                    if num > MAX_CONFIG_FIELDS:
                        too_many.append(f"{path.relative_to(ROOT)}: {node.name} has {num} fields")
    # Still flat, as the keys of eval.run.
    assert too_many == ["eval/config.py: EvalConfig has 34 fields"]


def test_broad_excepts_stand_at_the_host_boundary_alone() -> None:
    broad = []
    for room in ROOMS:
        for path in sources(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ExceptHandler):
                    names = ast.dump(node.type) if node.type else "BaseException"
                    if re.search(r"id='(Base)?Exception'|^BaseException", names):
                        broad.append(str(path.relative_to(ROOT)))
    # Replicas and the child of the bridge answer for every bug of a back-end; the others clean up
    # and raise again.
    serving = ("batches", "cluster", "launch", "replica", "turns")
    hosts = {
        "toolshed/environments/bridge_child.py",
        *(f"toolshed/serving/{name}.py" for name in serving),
    }
    assert set(broad) <= hosts, broad


def test_no_name_says_nothing() -> None:
    empty = re.compile(r"(^|/)(utils?|misc|common|helpers?|manager|handlers?)(\.py|/)")
    assert not [name for name in tracked_files() if empty.search(name)]


def test_init_files_hold_names_not_code() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("__init__.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.If):
                    assert ast.unparse(node.test) == "TYPE_CHECKING", path
                assert not isinstance(node, ast.For | ast.While | ast.With | ast.ClassDef), path
