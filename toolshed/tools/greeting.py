"""Greetings: a family without pictures, to try a set-up with."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from toolshed.tool import Family, Within, tool
from toolshed.types import TextReply

Seconds = Annotated[float, Within(0.0, 60.0)]


class Greeting(Family):
    """Greets, and counts its greetings from 1; each replica has a count of its own."""

    name: ClassVar[str] = "greeting"
    # Each call changes the count, so no answer stands for another.
    idempotent: ClassVar[bool] = False

    @tool
    @abstractmethod
    def greet(self, name: str) -> TextReply:
        """Greet somebody.

        Args:
            name: Whom to greet.
        """

    @tool
    @abstractmethod
    def formal_greet(self, name: str, title: str = "Mr./Ms.") -> TextReply:
        """Greet somebody formally.

        Args:
            name: Whom to greet.
            title: Title to use.
        """

    @tool
    @abstractmethod
    def slow_greet(self, name: str, delay: Seconds = 1.0) -> TextReply:
        """Greet somebody after a while.

        Args:
            name: Whom to greet.
            delay: Seconds to wait first.
        """
