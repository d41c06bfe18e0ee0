"""What travels between a caller and a replica: whole, once, and never by way of those it passes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolshed.fake_tools import picture
from tests.toolshed.threads import joined, started
from toolshed.backend import Answer, Request
from toolshed.codec import Packed, pack, unpack
from toolshed.errors import ToolFailure
from toolshed.serving import wire
from toolshed.serving.wire import Asked, Inbox, Outbox, RayArray, Sent, Told, answer_of, two_parts
from toolshed.types import DepthEstimate, Stored, StoredArray, ToolValue, Variable

SMALL, LARGE = 16, 200


def depth(side: int) -> DepthEstimate:
    depth_m = np.arange(1, 1 + side * side, dtype=np.float32).reshape(side, side)
    return DepthEstimate(depth_m=depth_m, focal_length_px=50.0)


def answer(side: int, **fields: Any) -> Answer:
    value = depth(side)
    kept = Variable(name="depth_map", kind="depth_map", value=value.depth_m)
    return Answer(text="text", value=value, variables=(kept,), **fields)


def told_of(packed: Packed) -> Told:
    return Told(word="ok", text="text", tree=packed.tree, buffers=packed.buffers, run_s=0.25)


def asked(far: dict[str, Sent], **near: object) -> Asked:
    packed = pack(near)
    return Asked("f.m", packed.tree, packed.buffers, far, "", "rollout", "", 1.0)


# ---- replies -----------------------------------------------------------------------------------


def test_a_small_reply_is_one_part() -> None:
    packed, stored = two_parts(answer(SMALL))
    assert stored is None
    found = answer_of(told_of(packed), None, "", 0.5, 0.125)
    assert isinstance(found.value, DepthEstimate)
    assert np.array_equal(found.value.depth_m, depth(SMALL).depth_m)
    assert (found.queue_s, found.transfer_s, found.run_s) == (0.5, 0.125, 0.25)


def test_a_large_array_stays_behind_and_is_sent_on_without_being_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed, stored = two_parts(answer(LARGE))
    assert stored is not None
    assert packed.buffers == [None] and len(stored) == 1, "value and variable share one buffer"
    monkeypatch.setattr(wire, "_buffers", lambda reference: pytest.fail("it was fetched"))
    found = answer_of(told_of(packed), "reference", "key", 0.0, 0.0)
    (variable,) = found.variables
    assert isinstance(variable.value, StoredArray)
    assert (variable.value.dtype, variable.value.shape) == ("<f4", (LARGE, LARGE))
    _, far = Outbox().packed(Request(family="f", method="m", arguments={"data": variable.value}))
    assert far["data"].reference == "reference" and far["data"].num_bytes == 4 * LARGE * LARGE
    received = Inbox().unpacked(asked(far, u=0.5), lambda references: [stored])
    assert received["u"] == 0.5
    assert np.array_equal(np.asarray(received["data"]), depth(LARGE).depth_m)


def test_who_looks_gets_the_whole_value(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, stored = two_parts(answer(LARGE))
    found = answer_of(told_of(packed), "reference", "", 0.0, 0.0)
    monkeypatch.setattr(wire, "_buffers", lambda reference: stored)
    assert isinstance(found.value, Stored)
    value = found.value.fetch()
    assert isinstance(value, DepthEstimate) and value.known == depth(LARGE).known
    (variable,) = found.variables
    assert isinstance(variable.value, RayArray)
    array = variable.value.fetch()
    assert np.array_equal(array, value.depth_m) and not array.flags.writeable


def test_pictures_travel_with_the_first_part() -> None:
    packed, stored = two_parts(answer(LARGE, images=(picture(3, LARGE),)))
    assert stored is None
    found = answer_of(told_of(packed), None, "", 0.0, 0.0)
    assert found.images[0].sha256 == picture(3, LARGE).sha256


SHAPES = st.lists(st.integers(0, 200), min_size=0, max_size=2).map(tuple)
DTYPES = st.sampled_from(["<f4", "<f8", ">f8", "<f2", "|b1", "|u1", "<i8"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SHAPES, DTYPES, st.booleans()), max_size=4))
def test_any_arrays_come_back_as_they_were(
    wanted: list[tuple[tuple[int, ...], str, bool]],
) -> None:
    chance = np.random.default_rng(0)
    arrays = []
    for shape, dtype, is_strided in wanted:
        made = chance.integers(0, 2, shape).astype(dtype)
        arrays.append(made.T if is_strided else made)
    variables = tuple(
        Variable(name=f"v{i}", kind="array", value=each) for i, each in enumerate(arrays)
    )
    value: ToolValue = depth(SMALL)
    packed, stored = two_parts(Answer(text="", value=value, variables=variables))
    inline = [each for each in packed.buffers if each is not None]
    assert all(memoryview(each).nbytes <= 65_536 for each in inline)
    found = answer_of(told_of(packed), "reference", "", 0.0, 0.0)
    for variable, array in zip(found.variables, arrays, strict=True):
        held = variable.value
        if isinstance(held, RayArray):
            _, far = Outbox().packed(Request(family="f", method="m", arguments={"x": held}))
            held = Inbox().unpacked(asked(far), lambda references: [stored])["x"]
        assert isinstance(held, np.ndarray)
        assert held.dtype == array.dtype and np.array_equal(held, array)


# ---- arguments ---------------------------------------------------------------------------------


class Store:
    """Stands in for the object store where a test counts what is put there."""

    def __init__(self) -> None:
        self.objects: list[list[Any]] = []

    def put(self, buffers: list[Any]) -> int:
        self.objects.append(buffers)
        return len(self.objects) - 1

    def get(self, references: list[int]) -> list[list[Any]]:
        return [self.objects[each] for each in references]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    ray = pytest.importorskip("ray")
    made = Store()
    monkeypatch.setattr(ray, "put", made.put)
    return made


def send(outbox: Outbox, **arguments: object) -> dict[str, Sent]:
    return outbox.packed(Request(family="f", method="m", arguments=arguments))[1]


def test_a_picture_is_sent_once_however_often_it_is_used(store: Store) -> None:
    outbox = Outbox()
    references = {send(outbox, image=picture(1))["image"].reference for _ in range(5)}
    assert len(references) == len(store.objects) == 1, "equal pictures are one"
    send(outbox, image=picture(2))
    assert len(store.objects) == 2


def test_small_arguments_go_along_and_large_arrays_by_reference(store: Store) -> None:
    outbox, large, small = Outbox(), np.zeros(20_000), np.zeros(10)
    near, far = outbox.packed(
        Request(family="f", method="m", arguments={"a": large, "b": small, "c": "text"})
    )
    assert set(far) == {"a"} and set(unpack(near)) == {"b", "c"}
    assert send(outbox, a=large)["a"].reference == far["a"].reference
    assert send(outbox, a=large.copy())["a"].reference != far["a"].reference


def test_what_is_kept_in_the_store_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "KEPT_BYTES", 3 * 160_000)
    outbox, arrays = Outbox(), [np.full(20_000, i) for i in range(10)]
    for array in arrays:
        send(outbox, a=array)
        assert outbox._sent.num_bytes == 160_000 * len(outbox._sent) <= 3 * 160_000
    send(outbox, a=arrays[-1])
    assert len(store.objects) == 10
    send(outbox, a=arrays[0])
    assert len(store.objects) == 11, "it had been dropped"
    outbox.clear()
    assert not len(outbox._sent) and outbox._sent.num_bytes == 0


def test_threads_send_a_picture_once_too(store: Store) -> None:
    outbox, pictures = Outbox(), [picture(i, 16) for i in range(20)]
    start = threading.Barrier(4)

    def work() -> None:
        start.wait(60)
        for each in pictures:
            send(outbox, image=each)

    joined([started(work) for _ in range(4)])
    assert len(store.objects) == 20
    assert len(outbox._sent) == 20


def sent(key: str, array: np.ndarray) -> tuple[Sent, list[Any]]:
    packed = pack(array)
    return Sent(key, key, packed.tree, packed.num_bytes), packed.buffers


def counting(buffers: dict[str, list[Any]], fetched: Counter[str]) -> Callable[..., list[Any]]:
    def get(references: list[str]) -> list[Any]:
        fetched.update(references)
        return [buffers[each] for each in references]

    return get


def test_a_replica_fetches_what_it_lacks_and_all_of_a_call_at_once() -> None:
    inbox, fetched = Inbox(), Counter[str]()
    first, first_buffers = sent("first", np.arange(4.0))
    second, second_buffers = sent("second", np.arange(5.0))
    get = counting({"first": first_buffers, "second": second_buffers}, fetched)
    assert np.array_equal(np.asarray(inbox.unpacked(asked({"a": first}), get)["a"]), np.arange(4))
    both = inbox.unpacked(asked({"a": first, "b": second}, c=1), get)
    assert set(both) == {"a", "b", "c"} and fetched == {"first": 1, "second": 1}


def test_what_a_replica_keeps_is_bounded_and_the_least_used_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "KEPT_BYTES", 3 * 800)
    inbox, fetched = Inbox(), Counter[str]()
    made = {str(i): sent(str(i), np.full(100, float(i))) for i in range(5)}
    get = counting({key: buffers for key, (_, buffers) in made.items()}, fetched)
    for key in ("0", "1", "2", "0", "3", "0", "1"):
        inbox.unpacked(asked({"a": made[key][0]}), get)
        assert inbox._fetched.num_bytes == 800 * len(inbox._fetched) <= 3 * 800
    assert fetched == {"0": 1, "1": 2, "2": 1, "3": 1}


def test_an_argument_that_cannot_be_fetched_leaves_nothing_behind() -> None:
    inbox = Inbox()
    one, buffers = sent("gone", np.arange(4.0))

    def expired(references: list[Any]) -> list[Any]:
        raise ToolFailure("expired", "the owner died")

    with pytest.raises(ToolFailure):
        inbox.unpacked(asked({"a": one}), expired)
    assert np.asarray(inbox.unpacked(asked({"a": one}), lambda _: [buffers])["a"]).sum() == 6
