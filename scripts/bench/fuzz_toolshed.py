"""What the tools do with rubbish: mutated model outputs through the call parser, hostile arguments
through real calls of the 17 light tools (a tenth through Ray), broken pictures through the reader.

Nothing may crash or hang; what is bad must be refused with field, limit and value; no private
attribute may be reached. Exits with 1 where something is. ``--selftest`` puts a fault into each
part and exits with 1 unless every one is noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Before this file's folder, where another file has the library's name.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.hostile_calls import Hostile, broken_pictures, hostile_calls, model_outputs
from toolshed.chat import ParsedCalls, clean, parse_calls, reply_texts
from toolshed.errors import ConfigError
from toolshed.images import ImageSource, load_image
from toolshed.limits import CALLS_PER_TURN
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import DEMO, make_scene
from toolshed.types import Json, ToolCall, ToolImage, ToolResult, Variable

HANGS_AFTER_S = 120.0
"""The watchdog prints every stack and ends the program."""
SLOW_S = 60.0
_LIMITS = (
    *("allowed:", "at most", "variables:", "arguments:", "fields:", "entries:", "has no entries"),
    *("images available", "tools:"),
)
_PRIVATE = re.compile(
    r"<class |object at 0x|<bound method|<built-in|Traceback|\bdtype\(|/site-packages/"
)
_SESSION_CALLS = 100
Call = Callable[[Session, ToolCall], Awaitable[ToolResult]]


class Watchdog:
    """Ends the script with a traceback where it hangs; only the script, never its importers."""

    _is_on = False

    @classmethod
    @contextlib.contextmanager
    def on(cls) -> Iterator[None]:
        cls._is_on = True
        cls.beat()
        try:
            yield
        finally:
            cls._is_on = False
            faulthandler.cancel_dump_traceback_later()

    @classmethod
    def beat(cls) -> None:
        """Something has been done: wait from now on."""
        if cls._is_on:
            faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)


@dataclass(kw_only=True, slots=True)
class Findings:
    """Of one part: how much was tried, and what was wrong."""

    num_cases: int = 0
    num_refused: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, began_s: float, complaints: Iterable[str]) -> None:
        self.num_cases += 1
        took_s = time.perf_counter() - began_s
        if took_s > self.slowest_s:
            self.slowest_s, self.slowest = took_s, what[:100]
        self.wrong += complaints
        if took_s > SLOW_S:
            self.wrong.append(f"slow: {what[:100]!r} took {took_s:.1f} s")
        if self.num_cases % 50 == 0:
            Watchdog.beat()

    def summary(self) -> dict[str, Json]:
        return {
            "cases": self.num_cases,
            "refused": self.num_refused,
            "wrong": len(self.wrong),
            "slowest_s": round(self.slowest_s, 3),
            "slowest": self.slowest,
            "examples": list(self.wrong[:10]),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=100_000, help="model outputs; calls: a tenth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether faults are noticed")
    options = parser.parse_args(arguments)
    if options.cases < 100:
        parser.error(f"--cases must be at least 100, not {options.cases}")
    with Watchdog.on():
        if options.selftest:
            found = selftest(options.seed)
            is_good = all(each["wrong"] for each in found.values())
        else:
            found = fuzz(options.cases, options.seed)
            is_good = not any(each["wrong"] for each in found.values())
    if options.json:
        print(json.dumps(found))
    else:
        for name, figures in found.items():
            print(name, json.dumps(figures))
    return 0 if is_good else 1


def fuzz(num: int, seed: int, *, ray: bool = True) -> dict[str, dict[str, Json]]:
    """All parts: ``num`` model outputs, a tenth as many calls, a hundredth as many pictures."""
    with Toolshed.open("light", host="local") as shed:
        methods = list(shed.tools.methods.values())
        outputs = model_outputs(methods, random.Random(seed), num)
        parser = check_parser(parse_calls, outputs)
        hostile = hostile_calls(methods, random.Random(seed + 1), num // 10)
        on_ray = len(hostile) // 10 if ray else 0
        local = asyncio.run(check_calls(shed, Session.call, hostile[on_ray:]))
    found = {"parser": parser.summary(), "calls_local": local.summary()}
    if ray:
        with Toolshed.open("light", host="ray") as shed:
            answered = asyncio.run(check_calls(shed, Session.call, hostile[:on_ray]))
        found["calls_ray"] = answered.summary()
    with tempfile.TemporaryDirectory() as folder:
        sources = broken_pictures(Path(folder), random.Random(seed + 2), max(100, num // 100))
        found["pictures"] = check_pictures(load_image, sources).summary()
    return found


# ---- the parser --------------------------------------------------------------------------------


def check_parser(parse: Callable[[str], ParsedCalls], outputs: Sequence[str]) -> Findings:
    findings = Findings()
    for text in outputs:
        began_s = time.perf_counter()
        try:
            parsed = parse(text)
            complaints = list(_complaints_of_parsed(text, parsed))
            findings.num_refused += bool(parsed.errors)
        except Exception as error:
            complaints = [f"{type(error).__name__}: {error} for {text[:200]!r}"]
        findings.add(text, began_s, complaints)
    return findings


def _complaints_of_parsed(text: str, parsed: ParsedCalls) -> Iterable[str]:
    places = [(each.start, each.end) for each in parsed.calls]
    places = sorted([*places, *((each.start, each.end) for each in parsed.errors)])
    ends = [0, *(end for _, end in places)]
    if any(
        not end <= start < stop <= len(text)
        for end, (start, stop) in zip(ends, places, strict=False)
    ):
        yield f"places overlap or lie outside: {places} in {text[:200]!r}"
    if len(parsed.calls) > CALLS_PER_TURN:
        yield f"{len(parsed.calls)} calls in one turn"
    for call in parsed.calls:
        json.dumps(call.arguments, allow_nan=False, ensure_ascii=False).encode()
    results = [ToolResult(call_id=each.id, name=each.name, status="ok") for each in parsed.calls]
    told = reply_texts(parsed, results)
    if len(told) != len(places):
        yield f"{len(told)} replies to {len(places)} attempts"
    for error in parsed.errors:
        if not error.text or clean(error.text) != error.text or len(error.text) > 1000:
            yield f"error text {error.text[:200]!r}"
    if "<tool_call>" in text and not places:
        yield f"an attempt without a reply: {text[:200]!r}"


# ---- calls -------------------------------------------------------------------------------------


async def check_calls(shed: Toolshed, call: Call, hostile: Sequence[Hostile]) -> Findings:
    findings, session = Findings(), None
    for index, each in enumerate(hostile):
        if session is None or index % _SESSION_CALLS == 0:
            session = await _session(shed)
        began_s = time.perf_counter()
        try:
            result = await call(session, each.call)
            complaints = list(_complaints_of_result(each, result))
            findings.num_refused += result.status == "refused"
        except Exception as error:
            complaints = [f"{type(error).__name__}: {error} of {_shown(each)}"]
        findings.add(_shown(each), began_s, complaints)
    return findings


_PICTURE: list[ToolImage] = []


async def _session(shed: Toolshed) -> Session:
    """A session with variables of every kind, beside another that owns one by itself."""
    if not _PICTURE:
        _PICTURE.append(render(make_scene(0, DEMO)).image())
    other = shed.session(_PICTURE, scene=3)
    other.variables.keep(Variable(name="other_sessions_mask", kind="mask", value=None))
    session = shed.session(_PICTURE, scene=3)
    for name, arguments in (
        ("depth_estimator.estimate_depth_with_pointcloud", {}),
        ("sam2.segment_from_point", {"x": 0.5, "y": 0.5}),
    ):
        given: dict[str, Json] = {**arguments, "image_index": 0}
        result = await session.call(ToolCall(id="", name=name, arguments=given))
        assert result.status == "ok", result
    return session


def _complaints_of_result(hostile: Hostile, result: ToolResult) -> Iterable[str]:
    if result.status == "failed":
        yield f"failed ({result.reason}: {result.text[-300:]}): {_shown(hostile)}"
    if hostile.is_bad and result.status == "ok":
        yield f"answered: {_shown(hostile)}"
    if hostile.is_bad and result.status == "refused":
        missing = unnamed(hostile, result.text)
        if missing:
            yield f"{missing} not named in {result.text[:200]!r}: {_shown(hostile)}"
    if _PRIVATE.search(result.text):
        yield f"private: {result.text[:200]!r}: {_shown(hostile)}"
    if len(result.text) > 20_000 or clean(result.text) != result.text:
        yield f"a text of {len(result.text)} characters: {_shown(hostile)}"


def unnamed(hostile: Hostile, text: str) -> str:
    """What a refusal does not say of field, limit and value; empty where it says all."""
    if not any(each in text for each in _LIMITS):
        return "the limit"
    if clean(hostile.field[:20]).strip() not in text and "\ud800" not in hostile.field:
        return "the field"
    if hostile.field in hostile.call.arguments and not _is_named(hostile.value, text):
        return "the value"
    return ""


def _is_named(value: object, text: str) -> bool:
    sizes = r"got (\w+ )*(of|about|than|nested) (about |more than )?\d+|nested \d+|than \d+"
    if re.search(sizes, text) or (value == "[[1e999, 0, 1]]" and "[Infinity, 0, 1]" in text):
        return True
    if isinstance(value, list | dict) and len(value) > 300:
        return False
    if isinstance(value, str) and value.startswith("$"):
        # Of a chain of steps the text names the variable and the step that does not exist.
        return re.split(r"[.\[]", value)[0][:20].strip() in text
    try:
        spelled = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return False
    return any(clean(each)[:20].strip('"') in text for each in (spelled, str(value)))


def _shown(hostile: Hostile) -> str:
    return f"{hostile.call.name[:60]} {hostile.field[:40]!r} {repr(hostile.value)[:100]}"


# ---- pictures ----------------------------------------------------------------------------------


def check_pictures(
    load: Callable[[ImageSource], ToolImage], sources: Sequence[ImageSource]
) -> Findings:
    findings = Findings()
    for source in sources:
        began_s = time.perf_counter()
        complaints = []
        try:
            picture = load(source)
            if picture.pixels.ndim != 3 or picture.pixels.size > 150_000_000:
                complaints.append(f"pixels of shape {picture.pixels.shape}")
        except ConfigError as error:
            findings.num_refused += 1
            if "image" not in str(error) or len(str(error)) > 1000:
                complaints.append(f"error text {str(error)[:300]!r}")
        except Exception as error:
            complaints.append(f"{type(error).__name__}: {error} for {source.image[:100]!r}")
        findings.add(source.image, began_s, complaints)
    return findings


# ---- selftest ----------------------------------------------------------------------------------


def selftest(seed: int) -> dict[str, dict[str, Json]]:
    """Each part with a fault of its own; each must have found something wrong."""
    with Toolshed.open("light", host="local") as shed:
        methods = list(shed.tools.methods.values())
        outputs = model_outputs(methods, random.Random(seed), 300)
        hostile = hostile_calls(methods, random.Random(seed), 300)

        def calls(fault: Call) -> dict[str, Json]:
            return asyncio.run(check_calls(shed, fault, hostile)).summary()

        found = {
            "parser that raises": check_parser(_raising_parser, outputs).summary(),
            "parser that loses attempts": check_parser(_deaf_parser, outputs).summary(),
            "tools that answer anything": calls(_answers_all),
            "refusals without a value": calls(_mumbles),
            "tools that show their insides": calls(_shows_insides),
        }
    source = ImageSource(image="/nowhere.png")
    found["reader that raises"] = check_pictures(_raising_reader, [source]).summary()
    return found


def _raising_parser(text: str) -> ParsedCalls:
    if "[[[[" in text:
        raise RecursionError("too deep")
    return parse_calls(text)


def _deaf_parser(text: str) -> ParsedCalls:
    return ParsedCalls(calls=(), errors=())


async def _answers_all(session: Session, call: ToolCall) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, status="ok", text="fine")


async def _mumbles(session: Session, call: ToolCall) -> ToolResult:
    text = "image_index: something is not allowed:"
    return ToolResult(call_id=call.id, name=call.name, status="refused", text=text)


async def _shows_insides(session: Session, call: ToolCall) -> ToolResult:
    text = str(type(session))
    return ToolResult(call_id=call.id, name=call.name, status="refused", text=text)


def _raising_reader(source: ImageSource) -> ToolImage:
    raise OSError(source.image)


if __name__ == "__main__":
    sys.exit(main())
