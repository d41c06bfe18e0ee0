"""Arithmetic in this process: whole numbers stay whole, and nothing infinite is ever said."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from toolshed.errors import ToolRefusal
from toolshed.limits import INTEGER
from toolshed.tools.calculator import Calculator
from toolshed.types import TextReply


class PlainCalculator(Calculator):
    def add(self, a: float, b: float) -> TextReply:
        return _computed("{} + {}", operator.add, a, b)

    def subtract(self, a: float, b: float) -> TextReply:
        return _computed("{} - {}", operator.sub, a, b)

    def multiply(self, a: float, b: float) -> TextReply:
        return _computed("{} × {}", operator.mul, a, b)

    def divide(self, a: float, b: float) -> TextReply:
        return _computed("{} ÷ {}", operator.truediv, a, b)

    def power(self, base: float, exponent: float) -> TextReply:
        return _computed("{}^{}", _power, base, exponent)

    def modulo(self, a: float, b: float) -> TextReply:
        return _computed("{} mod {}", operator.mod, a, b)


def _computed(
    form: str, operation: Callable[[float, float], float], a: float, b: float
) -> TextReply:
    a, b = _whole(a), _whole(b)
    asked = form.format(a, b)
    try:
        found = operation(a, b)
    except ZeroDivisionError:
        raise ToolRefusal("zero_divisor", f"{asked}: the divisor is zero") from None
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ToolRefusal("overflow", f"{asked} is beyond 1.8e308, the largest number there is")
    return TextReply(text=f"{asked} = {found}")


def _whole(number: float) -> float:
    """Whole numbers as integers, which is how they were written."""
    return int(number) if number == int(number) and abs(number) <= INTEGER else number


def _power(base: float, exponent: float) -> float:
    # In floating point first: of integers the result could have millions of digits.
    size: float | complex = float(base) ** exponent
    if isinstance(size, complex):
        raise ToolRefusal("no_real_value", f"{base}^{exponent} is no real number")
    if abs(size) > INTEGER or exponent < 0:
        return size
    found: float = operator.pow(base, exponent)
    return found
