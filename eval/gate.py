"""Whether a run's scores may be shown: rows searched for what our machinery did to the answers.

Three kinds of finding, each with a limit for the share of a benchmark's rows that may have it. A
run beyond a limit is poisoned: its table shows the reasons in place of scores.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from eval.breakages import breakage_in, texts_in
from eval.rows import EvalRow, RowKey
from rl.show.episode import CallRecord, Episode

FindingKind = Literal["infrastructure", "phantom_variable", "empty_reply"]
FEW = 2
"""Rows of a benchmark that a limit above 0 allows in any case: of ten questions one is 10 %."""
_NAMED = re.compile(r"\$([A-Za-z_]\w*)")
_WORDS: dict[FindingKind, str] = {
    "infrastructure": "machinery broke",
    "phantom_variable": "calls used variables that no tool had published",
    "empty_reply": "the model or a tool said nothing",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing in one row that makes its score doubtful."""

    kind: FindingKind
    key: RowKey
    words: str
    """What was found and where: ``sam2.segment_from_point read: CUDA out of memory``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Shares of a benchmark's rows that may have a finding, in [0, 1]."""

    infrastructure: float = 0.0
    """None: such a row is no answer of the model, and the same command asks it again."""
    phantom: float = 0.05
    """The released checkpoint has 2 of 124 in every run of ``blinkdepth``, 1.6 %, which is its own
    mistake; three times that is more than chance makes of it, and looks like tools that do not
    publish what they say."""
    empty: float = 0.05
    """A trained policy ends with words; more than a few silences are a wrong chat template, or a
    limit of tokens that is too low for the reasoning before the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says of a run."""

    findings: tuple[Finding, ...] = ()
    reasons: tuple[str, ...] = ()
    """A sentence for each benchmark and kind beyond its limit; without any, scores are shown."""

    @property
    def poisoned(self) -> bool:
        return bool(self.reasons)


def verdict_of(rows: Sequence[EvalRow], limits: Limits | None = None, stopped: str = "") -> Verdict:
    """The findings of rows, and whether they are too many.

    ``stopped`` says why a run ended before its time, which is a reason in itself.
    """
    limits = Limits() if limits is None else limits
    findings = tuple(finding for row in rows for finding in findings_of(row))
    reasons = [f"the run was stopped: {stopped}"] if stopped else []
    shares: dict[FindingKind, float] = {
        "infrastructure": limits.infrastructure,
        "phantom_variable": limits.phantom,
        "empty_reply": limits.empty,
    }
    num_rows = Counter(row.benchmark for row in rows)
    for benchmark, num in num_rows.items():
        for kind, share in shares.items():
            found = [f for f in findings if f.kind == kind and f.key.benchmark == benchmark]
            num_found = len({finding.key for finding in found})
            if num_found > allowed(share, num):
                reasons.append(_reason(benchmark, found, num_found, num, share))
    return Verdict(findings=findings, reasons=tuple(reasons))


def allowed(share: float, num_rows: int) -> int:
    """How many of a benchmark's rows may have a finding of a kind."""
    return max(FEW, int(share * num_rows)) if share > 0 else 0


def findings_of(row: EvalRow) -> list[Finding]:
    """Everything in one row that makes its score doubtful; of a broken row only that it broke."""
    if row.failed:
        return [Finding(kind="infrastructure", key=row.key, words=row.failure or "no score")]
    found: list[tuple[FindingKind, str]] = []
    found += [("infrastructure", words) for words in broken_replies(row.episode)]
    found += [("phantom_variable", f"${name}") for name in phantom_names(row.episode)]
    found += [("empty_reply", words) for words in _silences(row.episode)]
    return [Finding(kind=kind, key=row.key, words=words) for kind, words in found]


def broken_replies(episode: Episode) -> list[str]:
    """What replies of tools, which counted as answers, say of broken machinery."""
    told = (breakage_in(call.name, call.arguments, call.reply) for call in _calls(episode))
    return [words for words in told if words]


def phantom_names(episode: Episode) -> list[str]:
    """Variables that calls of an episode used and none of its tools published, in order."""
    calls = list(_calls(episode))
    answered = [call for call in calls if call.status == "ok"]
    kept = {name for call in answered for name in call.variables}
    return phantoms([call.arguments for call in calls], [call.reply for call in answered], kept)


def phantoms(
    arguments: Iterable[Mapping[str, JsonValue]], replies: Iterable[str], kept: Iterable[str] = ()
) -> list[str]:
    """Names in ``arguments`` that neither stand in ``replies`` nor are ``kept``, in order.

    A name counts as used where a value begins with it, ``$mask`` or ``$mask[3]``; published is what
    a reply names anywhere.
    """
    published = {match[1] for reply in replies for match in _NAMED.finditer(reply)} | set(kept)
    used = [
        match[1]
        for each in arguments
        for text in texts_in(dict(each))
        if (match := _NAMED.match(text))
    ]
    return [name for name in dict.fromkeys(used) if name not in published]


def failure_kind(words: str) -> str:
    """The beginning of a failure that equal ones share: ``roborefer.detect_one: timeout``."""
    return ": ".join(words.split(": ")[:2])


def _calls(episode: Episode) -> Iterator[CallRecord]:
    return (call for turn in episode.turns for call in turn.calls)


def _silences(episode: Episode) -> list[str]:
    found = [
        f"{call.name} answered with nothing"
        for call in _calls(episode)
        if call.status != "failed" and not call.reply.strip()
    ]
    last = episode.turns[-1] if episode.turns else None
    # A provider that stops for content has answered, with nothing.
    if last is None or (not last.text.strip() and last.finish != "refusal"):
        found.append("the model said nothing in its last turn")
    return found


def _reason(
    benchmark: str, found: Sequence[Finding], num_found: int, num_rows: int, share: float
) -> str:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for finding in found:
        groups[failure_kind(finding.words)].append(finding.words)
    most = max(groups.values(), key=len)
    kind = found[0].kind
    return (
        f"{benchmark}: {_WORDS[kind]} in {num_found} of {num_rows} rows "
        f"(allowed: {allowed(share, num_rows)}), most often ({len(most)} times): {most[0]}"
    )
