"""Greetings with their number."""

from __future__ import annotations

import itertools
import time

from toolshed.tools.greeting import Greeting
from toolshed.types import TextReply


class CountedGreeting(Greeting):
    def __init__(self) -> None:
        self._count = itertools.count(1)

    def greet(self, name: str) -> TextReply:
        return self._numbered(f"Hello, {name}!")

    def formal_greet(self, name: str, title: str = "Mr./Ms.") -> TextReply:
        return self._numbered(f"Good day, {title} {name}.")

    def slow_greet(self, name: str, delay: float = 1.0) -> TextReply:
        time.sleep(delay)
        return self._numbered(f"Hello at last, {name}!")

    def _numbered(self, words: str) -> TextReply:
        return TextReply(text=f"{words} (Greeting #{next(self._count)})")
