"""Quality gates before RL: whether a checkpoint is one that reinforcement can teach.

Reinforcement sharpens what a policy sometimes does right. It has nothing to compare where answers
have no form, calls cannot be run, or all siblings fare alike. Each gate is a pure function of what
was seen of the trajectories; those that our machinery broke are not among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rl.algorithms.advantages import has_spread
from rl.collection.config import MIN_SCORES
from rl.collection.filter import is_enough, score_of
from rl.figures.intervals import independent, wilson
from rl.figures.tasks import NEAR
from rl.rewards.answer import points
from rl.types import Reward, StopReason, Trajectory, Turn
from sft.config import check_not_negative
from toolshed.errors import ConfigError
from toolshed.references import parse_reference
from toolshed.tool import Method, Parameter, Within
from toolshed.toolset import ToolSet
from toolshed.types import Detections, Json, Point, ToolCall, ToolResult

EXAMPLES = 3
"""Trajectories that a failed gate names."""
_UNREADABLE = (
    *("unknown_tool", "missing_argument", "unknown_argument"),
    *("wrong_kind", "unknown_variable", "out_of_range"),
)
_BAD = "bad_"
_TAKING = ("array", "points", "point", "names", "picture")
_UNIT = Within(0.0, 1.0)


@dataclass
class BarsConfig:
    """What each gate asks for at least."""

    format: float = 0.99
    """Share of trajectories that are well-formed."""
    calls: float = 0.95
    """Share of the calls written that can be read and whose tool and arguments exist."""
    chains: int = 1
    """Trajectories that are right by a chain of tools; 0 asks for none."""
    spread: float = 0.2
    """Share of groups whose rewards differ."""
    decision: float = 0.5
    """Share of wrong answers that come in good form, by valid calls."""

    def __post_init__(self) -> None:
        for name in ("format", "calls", "spread", "decision"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"bars.{name}={getattr(self, name)} is a share: 0 to 1")
        check_not_negative(self, "chains")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What the gates read of one scored trajectory."""

    question: int
    """Counted from 1."""
    sample: int
    value: float
    """Its reward."""
    is_right: bool
    fault: str = ""
    """Why it is not well-formed; empty if it is."""
    num_valid: int = 0
    """Calls that reached their tool."""
    invalid: tuple[str, ...] = ()
    """Of each other call why it did not."""
    chain: str = ""
    """Two tools of which one took what the other had returned; empty where there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One gate's outcome."""

    name: str
    bar: float
    figure: float | None = None
    """A share, of chains their number; None where there was nothing to judge."""
    low: float | None = None
    high: float | None = None
    """Of a share's interval, 95 %."""
    n: int = 0
    of: str
    """What ``n`` counts."""
    told: str = ""
    """What was seen, in words; of a gate that was not asked why."""
    is_count: bool = False
    """Of ``figure`` and ``bar``, which are shares else."""
    asked: bool = True
    examples: tuple[tuple[int, int], ...] = ()
    """Of a failed gate (question, sample) of trajectories to look at."""

    @property
    def passed(self) -> bool:
        return not self.asked or (self.figure is not None and self.figure >= self.bar)

    @property
    def is_close(self) -> bool:
        """Whether the bar lies inside the interval, so that more questions might say otherwise."""
        if not self.asked or self.low is None or self.high is None:
            return False
        return self.low < self.bar < self.high


Groups = Sequence[Sequence[Seen]]


def judge(groups: Groups, bars: BarsConfig, tools: ToolSet) -> list[Verdict]:
    """Every gate, in order; ``groups`` hold the scored siblings of each question."""
    return [
        _format(groups, bars),
        _calls(groups, bars, tools),
        _chains(groups, bars, tools),
        _spread(groups, bars),
        _decision(groups, bars),
    ]


# ---- gates --------------------------------------------------------------------------------------


def _format(groups: Groups, bars: BarsConfig) -> Verdict:
    seen = [each for group in groups for each in group]
    bad = [each for each in seen if each.fault]
    shares = [[not each.fault for each in group] for group in groups]
    return _share("format", bars.format, shares, "trajectories", _counts(e.fault for e in bad), bad)


def _calls(groups: Groups, bars: BarsConfig, tools: ToolSet) -> Verdict:
    name, of = "valid calls", "calls"
    if not tools.specs:
        told = "tools.config=none announces no tools"
        return Verdict(name=name, bar=bars.calls, of=of, told=told, asked=False)
    shares = [
        [valid for each in group for valid in [True] * each.num_valid + [False] * len(each.invalid)]
        for group in groups
    ]
    bad = [each for group in groups for each in group if each.invalid]
    told = _counts(reason for each in bad for reason in each.invalid)
    if not any(shares):
        told, bad = "no trajectory holds a call", [each for group in groups for each in group]
    return _share(name, bars.calls, shares, of, told, bad)


def _chains(groups: Groups, bars: BarsConfig, tools: ToolSet) -> Verdict:
    name, of = "tool chains", "trajectories"
    reason = "bars.chains=0" if not bars.chains else why_no_chain(tools)
    seen = [each for group in groups for each in group]
    if reason:
        return Verdict(name=name, bar=bars.chains, of=of, told=reason, is_count=True, asked=False)
    chained = [each for each in seen if each.chain]
    right = [each for each in chained if each.is_right]
    told = f"{len(chained)} hold a chain, {len(right)} of them right"
    if right:
        told += f"; most often {Counter(each.chain for each in right).most_common(1)[0][0]}"
    failed = len(right) < bars.chains
    wrong = [each for each in chained if not each.is_right] or [e for e in seen if not e.is_right]
    return Verdict(
        name=name,
        bar=bars.chains,
        figure=float(len(right)),
        n=len(seen),
        of=of,
        told=told,
        is_count=True,
        examples=_examples(wrong) if failed else (),
    )


def _spread(groups: Groups, bars: BarsConfig) -> Verdict:
    whole = [group for group in groups if len(group) > 1]
    spread = [has_spread([each.value for each in group]) for group in whole]
    dead = [group for group, has in zip(whole, spread, strict=True) if not has]
    right = sum(2 * sum(each.is_right for each in group) > len(group) for group in dead)
    told = f"without: {right} all right, {len(dead) - right} all wrong"
    if len(whole) < len(groups):
        told += f"; {len(groups) - len(whole)} with fewer than two scored samples left out"
    firsts = [group[0] for group in dead]
    return _share("spread", bars.spread, [[each] for each in spread], "groups", told, firsts)


def _decision(groups: Groups, bars: BarsConfig) -> Verdict:
    name, of = "decision errors", "wrong answers"
    wrong = [[each for each in group if not each.is_right] for group in groups]
    if not any(wrong):
        told = "no answer is wrong"
        return Verdict(name=name, bar=bars.decision, of=of, told=told, asked=False)
    of_form = [each for group in wrong for each in group if each.fault or each.invalid]
    shares = [[not (each.fault or each.invalid) for each in group] for group in wrong]
    told = _counts("bad form" if each.fault else "invalid call" for each in of_form)
    return _share(name, bars.decision, shares, of, told, of_form)


def _share(
    name: str,
    bar: float,
    clusters: Sequence[Sequence[bool]],
    of: str,
    told: str,
    bad: Sequence[Seen],
) -> Verdict:
    n = sum(map(len, clusters))
    if not n:
        told = told or "nothing was scored"
        return Verdict(name=name, bar=bar, of=of, told=told, examples=_examples(bad))
    figure = sum(map(sum, clusters)) / n
    low, high = wilson(figure, independent(clusters))
    examples = _examples(bad) if figure < bar else ()
    return Verdict(
        name=name,
        bar=bar,
        figure=figure,
        low=low,
        high=high,
        n=n,
        of=of,
        told=told,
        examples=examples,
    )


def _examples(bad: Sequence[Seen]) -> tuple[tuple[int, int], ...]:
    """Of different questions, as far as there are such."""
    firsts = {each.question: (each.question, each.sample) for each in reversed(bad)}
    rest = [(each.question, each.sample) for each in bad]
    return tuple(dict.fromkeys([*sorted(firsts.values()), *rest]))[:EXAMPLES]


def _counts(words: Iterator[str]) -> str:
    found = Counter(words).most_common()
    return "the rest: " * bool(found) + ", ".join(f"{num} {word}" for word, num in found)


# ---- one trajectory -----------------------------------------------------------------------------


def seen_of(trajectory: Trajectory, question: int, right: float) -> Seen | None:
    """What gates read of a trajectory; None where it was not scored. ``right``: what a right
    answer scores more than; 0 for the threshold of its kind."""
    reward = trajectory.reward
    if reward is None:
        return None
    kind = trajectory.question.kind
    score, least = score_of(kind, reward), right or MIN_SCORES[kind]
    errors = [error.reason for turn in trajectory.turns for error in turn.errors]
    refused = [each.reason for each in trajectory.results if is_invalid(each)]
    return Seen(
        question=question,
        sample=trajectory.sample_index,
        value=reward.value,
        is_right=is_enough(score, least),
        fault=_fault(trajectory, reward),
        num_valid=len(trajectory.results) - len(refused),
        invalid=(*errors, *refused),
        chain=chain_of(trajectory),
    )


def is_invalid(result: ToolResult) -> bool:
    """Whether a call was refused for what was written in it, not for what its tool found."""
    reason = result.reason
    return result.status == "refused" and (reason in _UNREADABLE or reason.startswith(_BAD))


def _fault(trajectory: Trajectory, reward: Reward) -> str:
    if reward.well_formed:
        return ""
    if trajectory.stop_reason is not StopReason.ANSWERED:
        return f"cut by {trajectory.stop_reason}"
    if any(turn.errors for turn in trajectory.turns):
        return "unreadable call"
    return "no answer" if reward.answer is None else "answer in another form"


def chain_of(trajectory: Trajectory) -> str:
    """``A -> B`` of the first call of a tool B that was answered and took a variable or a point
    which another tool A had returned in an earlier turn; empty where there is none."""
    names: dict[str, str] = {}
    places: list[tuple[Point, str]] = []
    for turn in trajectory.turns:
        for call in _answered(turn):
            used = [names[name] for name in _references(call.arguments) if name in names]
            used += [
                tool
                for given in _points(call.arguments)
                for point, tool in places
                if max(abs(given.u - point.u), abs(given.v - point.v)) <= NEAR
            ]
            other = next((tool for tool in used if tool != call.name), "")
            if other:
                return f"{other} -> {call.name}"
        for result in turn.results:
            if result.status == "ok":
                names |= {each.name: result.name for each in result.variables}
                held = result.held
                found = held.points if isinstance(held, Detections) else ()
                places += [(point, result.name) for point in found]
    return ""


def _answered(turn: Turn) -> list[ToolCall]:
    pairs = zip(turn.calls, turn.results, strict=True)
    return [call for call, result in pairs if result.status == "ok"]


def _references(value: Json) -> Iterator[str]:
    if isinstance(value, dict | list):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _references(inside)
    elif isinstance(value, str) and value.startswith("$"):
        reference = parse_reference(value)
        if reference is not None:
            yield reference.name


def _points(arguments: dict[str, Json]) -> list[Point]:
    """Every point written in a call: pairs in brackets, and coordinates given by name."""
    found = [Point(u=u, v=v) for u, v in _named_pairs(arguments)]
    texts = [str(value) for value in arguments.values() if isinstance(value, str | list)]
    return found + [point for text in texts for point in points(text)]


def _named_pairs(arguments: dict[str, Json]) -> Iterator[tuple[float, float]]:
    for across, down in (("u", "v"), ("x", "y")):
        u, v = arguments.get(across), arguments.get(down)
        if isinstance(u, int | float) and isinstance(v, int | float):
            yield float(u), float(v)


# ---- what tools allow ---------------------------------------------------------------------------


def why_no_chain(tools: ToolSet) -> str:
    """Why no tool shown can take what another one returned; empty where one can."""
    if not tools.specs:
        return "tools.config=none announces no tools"
    if len(tools.methods) < 2:
        return "one tool alone is shown"
    if not any(map(_takes, tools.methods.values())):
        return "no tool shown takes a variable or a point"
    return ""


def _takes(method: Method) -> bool:
    def is_taking(parameter: Parameter) -> bool:
        is_coordinate = parameter.role == "number" and parameter.within == _UNIT
        return parameter.role in _TAKING or is_coordinate

    return any(map(is_taking, method.visible))
