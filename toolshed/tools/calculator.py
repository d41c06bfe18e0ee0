"""Arithmetic on two numbers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from toolshed.tool import Family, Within, tool
from toolshed.types import TextReply

Number = Annotated[float, Within(-1e308, 1e308)]


class Calculator(Family):
    """Six operations; what has no finite real value is refused."""

    name: ClassVar[str] = "calculator"

    @tool
    @abstractmethod
    def add(self, a: Number, b: Number) -> TextReply:
        """Add two numbers.

        Args:
            a: First number.
            b: Second number.
        """

    @tool
    @abstractmethod
    def subtract(self, a: Number, b: Number) -> TextReply:
        """Subtract the second number from the first.

        Args:
            a: First number.
            b: Number to subtract.
        """

    @tool
    @abstractmethod
    def multiply(self, a: Number, b: Number) -> TextReply:
        """Multiply two numbers.

        Args:
            a: First number.
            b: Second number.
        """

    @tool
    @abstractmethod
    def divide(self, a: Number, b: Number) -> TextReply:
        """Divide the first number by the second.

        Args:
            a: Number to divide.
            b: Divisor, not zero.
        """

    @tool
    @abstractmethod
    def power(self, base: Number, exponent: Number) -> TextReply:
        """Raise a number to a power.

        Args:
            base: Number to raise.
            exponent: Power.
        """

    @tool
    @abstractmethod
    def modulo(self, a: Number, b: Number) -> TextReply:
        """Remainder of a division, with the sign of the divisor.

        Args:
            a: Number to divide.
            b: Divisor, not zero.
        """
