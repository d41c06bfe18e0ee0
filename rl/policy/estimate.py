"""What episodes behind an API may cost, before any is played; rough, as providers count on their
own."""

from __future__ import annotations

from rl.policy.prices import Prices

_CHARS_PER_TOKEN = 4
_PIXELS_PER_TOKEN = 750
_MOST_PICTURE_TOKENS = 1600
_ANSWER_TOKENS = 250
_TURN_TOKENS = 350
"""What a turn and its replies add to the next prompt."""


def text_tokens(text: str) -> int:
    return len(text) // _CHARS_PER_TOKEN


def picture_tokens(width: int, height: int) -> int:
    """Of a picture, which providers make smaller where it is large."""
    return min(_MOST_PICTURE_TOKENS, width * height // _PIXELS_PER_TOKEN + 1)


def episode_usd(prices: Prices, first_tokens: int, num_turns: int) -> float:
    """One episode of so many turns, its first prompt of ``first_tokens``; no cache is counted."""
    prompts = sum(first_tokens + number * _TURN_TOKENS for number in range(num_turns))
    return (prompts * prices.input + num_turns * _ANSWER_TOKENS * prices.output) / 1e6
