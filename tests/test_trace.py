"""Traces as lines: what goes in comes out, and what is no measurement is refused by field."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dynhat_runtime.errors import TraceError
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.resource_snapshot import ResourceSnapshot, SensorState
from dynhat_runtime.trace import (
    MAX_LINE_BYTES,
    Event,
    Gap,
    TableIdentity,
    TracedDecision,
    TraceHeader,
    as_line,
    parse_line,
)
from tests.hand_made import three_points

SNAPSHOT = ResourceSnapshot(
    monotonic_s=12.25,
    source="jetson",
    usable_cpus=(0, 2),
    cpu_quota_cpus=1.5,
    gpu_max_frequency_hz=640e6,
    temperature_celsius=-3.5,
    on_battery=False,
    sensors=(SensorState(name="cpu", is_up=True), SensorState(name="gpu", is_up=False, error="gone")),
)
OBSERVATION = Observation(
    monotonic_s=13.0,
    point_id="p3",
    num_sentences=2,
    num_src_tokens=30,
    num_tgt_tokens=31,
    beam_size=4,
    elapsed_ms=41.5,
    is_canary=True,
)
HANDLING = Handling(monotonic_s=13.5, elapsed_ms=3.25)
DECISION = TracedDecision(
    monotonic_s=12.25,
    active_id="p6",
    point_id="p3",
    mode="auto",
    policy="predictive",
    reason_code="over_budget",
    predicted_ms=20.0,
    slow_down_factor=1.25,
    slow_down_std=0.1,
    reason="p6 needs 60 ms",
)
HEADER = TraceHeader(
    dynhat_version="1",
    started_at="2026-01-01T00:00:00+00:00",
    device="a board",
    table=TableIdentity.of(three_points()),
    rules={"latency_budget_ms": 35.0, "policy": "ladder", "num_tokens": None},
)


@pytest.mark.parametrize("value", [SNAPSHOT, OBSERVATION, HANDLING, DECISION, Gap(num_lost=3), HEADER])
def test_round_trip(value: Event | TraceHeader) -> None:
    """Every kind of line gives back the value it was made of, and is one line of plain JSON."""
    line = as_line(value)
    assert parse_line(line) == value
    assert "\n" not in line
    assert json.loads(line)["kind"]


def test_what_is_missing_is_left_out() -> None:
    """A field with nothing to say takes no room, and comes back as missing."""
    bare = ResourceSnapshot(monotonic_s=1.0, source="host")
    assert json.loads(as_line(bare)) == {"kind": "snapshot", "monotonic_s": 1.0, "source": "host"}
    assert parse_line(as_line(bare)) == bare


def test_fields_of_later_versions_are_passed_over() -> None:
    """A field that this version does not know is no reason to refuse the line."""
    assert parse_line(altered(OBSERVATION, new_field=[1, 2])) == OBSERVATION


def test_unknown_kind_is_no_error() -> None:
    """A kind of a later version is told apart from a broken line."""
    assert parse_line('{"kind": "weather", "rain": 1}') is None


def altered(value: Event | TraceHeader, **fields: object) -> str:
    """The line of `value` with other fields."""
    return json.dumps({**json.loads(as_line(value)), **fields})


@pytest.mark.parametrize(
    ("value", "field", "wrong"),
    [
        (OBSERVATION, "elapsed_ms", "41.5"),
        (OBSERVATION, "elapsed_ms", None),
        (OBSERVATION, "elapsed_ms", True),
        (OBSERVATION, "elapsed_ms", -1.0),
        (OBSERVATION, "elapsed_ms", 0),
        (OBSERVATION, "elapsed_ms", 1e300),
        (OBSERVATION, "num_src_tokens", 0),
        (OBSERVATION, "num_src_tokens", 10**30),
        (OBSERVATION, "num_tgt_tokens", 2.5),
        (OBSERVATION, "num_sentences", -4),
        (OBSERVATION, "point_id", 7),
        (SNAPSHOT, "usable_cpus", []),
        (SNAPSHOT, "usable_cpus", "0-3"),
        (SNAPSHOT, "cpu_quota_cpus", 0),
        (SNAPSHOT, "cpu_quota_cpus", 1e12),
        (SNAPSHOT, "cpu_load_fraction", 1.5),
        (SNAPSHOT, "gpu_max_frequency_hz", 0),
        (SNAPSHOT, "temperature_celsius", -300),
        (SNAPSHOT, "monotonic_s", 1e15),
        (SNAPSHOT, "on_battery", "yes"),
        (DECISION, "mode", "by hand"),
        (DECISION, "slow_down_factor", 0),
        (Gap(num_lost=1), "num_lost", -1),
        (HEADER, "format_version", 2),
        (HEADER, "device", None),
    ],
)
def test_what_cannot_be_is_refused_by_name(value: Event | TraceHeader, field: str, wrong: object) -> None:
    """A wrong type, an impossible or an absurd number is refused, and the message names the field."""
    with pytest.raises(TraceError, match=rf"^{field}"):
        parse_line(altered(value, **{field: wrong}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_no_number(number: str) -> None:
    """What is no finite number is refused wherever it stands, also in a field nobody reads."""
    line = as_line(OBSERVATION).replace("41.5", number)
    with pytest.raises(TraceError, match="is no measurement"):
        parse_line(line)
    with pytest.raises(TraceError, match="is no measurement"):
        parse_line(as_line(OBSERVATION)[:-1] + f',"new_field":{number}}}')


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "nonsense",
        "[1]",
        "7",
        "null",
        '{"monotonic_s": 1}',
        '{"kind": 7}',
        '{"kind": "observation"}',
        "[" * 20_000,
        '{"kind":' * 5_000,
        "9" * 10_000,
        as_line(OBSERVATION)[:-9],
        b"\xff\xfe{}",
        b"\x00" * 100,
    ],
)
def test_junk_is_refused(line: str | bytes) -> None:
    """Whatever stands in a line, the answer is a value or our own error."""
    with pytest.raises(TraceError):
        parse_line(line)


def test_too_long() -> None:
    """A line beyond every size of ours is refused unread."""
    with pytest.raises(TraceError, match="longer than"):
        parse_line(altered(OBSERVATION, new_field="x" * MAX_LINE_BYTES))


def test_identity_tells_tables_apart() -> None:
    """Another figure makes another identity; a field that came to the format later does not."""
    table = three_points()
    other = table.model_copy(update={"default_latency_budget_ms": 36.0})
    assert TableIdentity.of(table) == TableIdentity.of(three_points())
    assert TableIdentity.of(other).sha256 != TableIdentity.of(table).sha256
    assert TableIdentity.of(table, ("p1",)) == replace(TableIdentity.of(table), point_ids=("p1",))
