"""A recording of what the governor was told and what it said: values, and the lines of JSON that hold them.

The first line is the header; after it come snapshots, observations, handlings, decisions, and gaps where lines were
lost, in the order in which they happened. Lengths and times only: no text of a user is ever in it. Opens no file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dynhat_runtime.errors import TraceError, first_complaint
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

FORMAT_VERSION = 1
MAX_LINE_BYTES = 64 * 1024
"""Longer lines are refused: the longest of ours are below 4 KiB."""
MAX_PAGE_EVENTS = 4096
"""Events that a daemon gives at once to whoever records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableIdentity:
    """Which operating point table was served."""

    device: str
    """The device it was measured on."""
    weights_sha256: str
    sha256: str
    """Of its content."""
    point_ids: tuple[str, ...]
    """Those of its points that were served, fastest first."""

    @classmethod
    def of(cls, table: OperatingPointTable, served_ids: tuple[str, ...] | None = None) -> TableIdentity:
        """The identity of `table`; without `served_ids` all of its points are served."""
        # Without what is None, so that a field that comes to the format later does not change it.
        content = table.model_dump_json(exclude_none=True).encode()
        return cls(
            device=table.device.name,
            weights_sha256=table.weights_sha256,
            sha256=hashlib.sha256(content).hexdigest(),
            point_ids=tuple(point.id for point in table) if served_ids is None else served_ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHeader:
    """Where a recording comes from."""

    format_version: int = FORMAT_VERSION
    dynhat_version: str
    started_at: str
    """UTC, ISO 8601: when the recorded daemon began."""
    device: str
    """The device it ran on."""
    table: TableIdentity
    rules: dict[str, str | int | float | None]
    """The governor's rules, by the names of their fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedDecision:
    """What the governor decided, without what follows from the rest of the recording."""

    monotonic_s: float
    """Of the snapshot it was decided on."""
    active_id: str
    """The point that was active when it was decided."""
    point_id: str
    mode: Literal["auto", "pinned"]
    policy: str
    reason_code: str
    predicted_ms: float
    """Of a sentence of the reference length on the point decided for."""
    slow_down_factor: float
    slow_down_std: float
    reason: str | None = None
    """One sentence, where another point was decided for than the active one."""
    wants_canary: bool = False

    @property
    def changed(self) -> bool:
        """Another point than the one active when it was decided."""
        return self.point_id != self.active_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Here lines are missing: whoever recorded came too late for them."""

    num_lost: int


Event = ResourceSnapshot | Observation | Handling | TracedDecision | Gap

_KINDS: dict[str, type[Any]] = {
    "header": TraceHeader,
    "snapshot": ResourceSnapshot,
    "observation": Observation,
    "handling": Handling,
    "decision": TracedDecision,
    "gap": Gap,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_DEFAULTS = {
    kind: {field.name: MISSING if field.name == "format_version" else field.default for field in fields(kind)}
    for kind in _KINDS.values()
}
_ADAPTERS = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}

_BOUNDS: tuple[tuple[str, float, float], ...] = (
    # end or start of a field's name, least, largest: what is outside is no measurement
    ("_fraction", 0.0, 1.0),
    ("_hz", 1.0, 1e13),
    ("_celsius", -274.0, 2000.0),
    ("_mib", 0.0, 1e9),
    ("_mw", -1e9, 1e9),
    ("_ms", 1e-6, 1e9),
    ("_quota_cpus", 1e-6, 1e5),
    ("monotonic_s", -1e12, 1e12),
    ("slow_down_factor", 1e-6, 1e6),
    ("slow_down_std", 0.0, 1e3),
    ("num_lost", 1, 1e15),
    ("num_", 1, 1e6),
    ("beam_size", 1, 1e4),
)


def as_line(value: Event | TraceHeader) -> str:
    """One line of JSON, without its end. What has its default value is left out."""
    content = {"kind": _NAMES[type(value)]}
    for name, default in _DEFAULTS[type(value)].items():
        part = getattr(value, name)
        if part != default:
            content[name] = part
    return _ENCODER.encode(content)


def _by_field(value: Any) -> dict[str, object]:
    """A value within a value. Not `asdict`: it copies every part, and this is done with every decision."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_by_field)
"""Made once: `json.dumps` would make one for every line."""


def parse_line(line: str | bytes) -> Event | TraceHeader | None:
    """The value that a line holds; None for a kind that this version does not know.

    Raises:
        TraceError: It holds none; the message names the field and what is wrong with it.
    """
    if len(line) > MAX_LINE_BYTES:
        raise TraceError(f"is longer than {MAX_LINE_BYTES} bytes")
    kind = _kind_of(line)
    if kind not in _ADAPTERS:
        return None
    try:
        value: Event | TraceHeader = _ADAPTERS[kind].validate_json(line, strict=True)
    except ValidationError as error:
        raise TraceError(first_complaint(error)) from None
    _check(value)
    return value


def _kind_of(line: str | bytes) -> str:
    """The line's kind; the whole line is JSON, and every number in it is one."""
    try:
        content = json.loads(line, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"is no JSON ({_first_line(error)})") from None
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise TraceError("is no JSON object with a 'kind'")
    return kind


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no measurement")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no measurement")
    return number


def _check(value: Event | TraceHeader) -> None:
    """Refuse what has the right type and cannot be."""
    if isinstance(value, TraceHeader):
        if value.format_version != FORMAT_VERSION:
            raise TraceError(
                f"format_version: {value.format_version} is not {FORMAT_VERSION}: this version of dynhat cannot read it"
            )
        return
    content = {field.name: getattr(value, field.name) for field in fields(value)}
    _check_bounds(content)
    for name in ("usable_cpus", "online_cpus"):
        if content.get(name) == ():
            raise TraceError(f"{name}: is empty, should have a CPU or be left out")


def _check_bounds(content: Mapping[str, object]) -> None:
    for name, number in content.items():
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        for part, least, largest in _BOUNDS:
            if name.endswith(part) or name.startswith(part):
                if not least <= number <= largest:
                    raise TraceError(f"{name}: {number:g} is not from {least:g} to {largest:g}")
                break
