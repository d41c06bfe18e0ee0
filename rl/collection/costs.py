"""What a collection behind an API may cost, and what it did cost, for people."""

from __future__ import annotations

from rl.collection.prepare import Collection
from rl.policy.estimate import episode_usd, picture_tokens, text_tokens
from rl.policy.replies import Replies
from rl.rollout import opening
from rl.start.needs import picture_size
from rl.types import Question

_THOUGHT = "caches and hidden reasoning not counted"


def estimate_line(collection: Collection, num_missing: int) -> str:
    """What so many trajectories may cost, from one turn each to all turns that are allowed."""
    config, prices = collection.config, collection.prices
    if prices is None:
        return f"estimate: unknown; give api.prices=[input,cached,output] for {config.api.model}"
    questions = collection.questions
    first = sum(_prompt_tokens(question, collection) for question in questions) // len(questions)
    most = config.max_turns if collection.tools.specs else 1
    usd = [num_missing * episode_usd(prices, first, turns) for turns in (1, most)]
    told = " to ".join(f"{each:.3g}" for each in dict.fromkeys(usd))
    limit = config.api.cost_limit_usd
    stops = f"; stops at {limit:g} USD" if limit else "; api.cost_limit_usd= sets a limit"
    return (
        f"estimate: roughly {told} USD for {num_missing} trajectories of {config.api.model}, "
        f"first prompts of {first} tokens ({_THOUGHT}){stops}"
    )


def _prompt_tokens(question: Question, collection: Collection) -> int:
    """Of the first request about a question, its tools and pictures included."""
    words = sum(text_tokens(message.text) for message in opening(question, collection.tools.specs))
    sizes = [picture_size(source.image) for source in question.images]
    return words + sum(picture_tokens(*size) for size in sizes)


def spent_line(collection: Collection, replies: Replies, num_kept: int) -> str:
    """What all commands of a collection have spent until now."""
    tokens, prices = replies.tokens, collection.prices
    read = tokens.input + tokens.cached + tokens.cache_written
    share = tokens.cached / read if read else 0.0
    usd = "unknown cost"
    if prices is not None:
        cost = prices.cost_usd(tokens)
        usd = f"{cost:.4f} USD" + (f", {cost / num_kept:.4f} per kept trace" if num_kept else "")
    lost = ""
    if replies.num_lost:
        most = f", at most {replies.lost_usd:.4f} USD more" if prices is not None else ""
        lost = f"; {replies.num_lost} requests ended without an account{most}"
    return (
        f"{collection.config.api.model}: {usd}; {replies.num_requests} requests, {read} tokens "
        f"read ({share:.0%} from the cache), {tokens.output} written{lost}"
    )
