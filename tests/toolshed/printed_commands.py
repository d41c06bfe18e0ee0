"""Pages as programs: what they tell the reader to type and to write is done, in order."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.\w+)(, at the end)?\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    kind: str
    """``bash``, ``python``, ``text`` or another one, which is left alone."""
    text: str


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page in ``docs``."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [Block(kind=match[1], text=match[2]) for match in _BLOCK.finditer(text)]


@dataclass(kw_only=True, slots=True)
class Reader:
    """Follows a page literally in a folder of its own."""

    folder: Path
    output: str = ""
    """Of the last commands."""
    serving: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def in_folder(cls, folder: Path) -> Reader:
        """With this checkout's ``toolshed`` and this interpreter as ``python``."""
        commands = folder / "bin"
        commands.mkdir(parents=True)
        for name, words in (("toolshed", "-m toolshed.cli"), ("python", "")):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        working = folder / "work"
        working.mkdir()
        return cls(folder=working, env=env)

    def follow(self, block: Block) -> None:
        """Type a block, run it, write it into its file, or find it in what was printed last."""
        if block.kind == "bash":
            self.output = ""
            for command in re.sub(r"\\\n\s*", "", block.text).splitlines():
                self._type(command)
        elif block.kind == "text":
            assert block.text in self.output, f"{block.text!r} is not in {self.output!r}"
        elif block.kind == "python":
            head = _FILE.match(block.text)
            if head is None:
                self.output = self._run(["python", "-c", block.text])
            else:
                file, body = self.folder / head[1], block.text[head.end() :]
                before = file.read_text() if head[2] else ""
                file.write_text(before + body)

    def close(self) -> None:
        if self.serving is not None:
            self.serving.terminate()
            self.serving.wait(timeout=60)

    def _type(self, command: str) -> None:
        if command.startswith("toolshed serve"):
            self.serving = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=self.folder, env=self.env
            )
            file = self.folder / command.split("--address-file ")[1].split()[0]
            for _ in range(600):
                if file.exists() or self.serving.poll() is not None:
                    break
                time.sleep(0.1)
            assert file.exists(), f"{command!r} does not serve"
            return
        self.output += self._run(["sh", "-c", command])

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == 0, f"$ {words[-1]}\n{printed}"
        return printed
