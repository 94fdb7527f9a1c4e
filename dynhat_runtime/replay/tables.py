"""Which operating point table a trace is replayed on, and by which rules: a table of another device is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dynhat_runtime.errors import TraceError, first_complaint
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.trace import TableIdentity, TraceHeader

_RULES = TypeAdapter(GovernorRules)


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table to replay on.

    Attributes:
        table: The points that were served.
        is_as_recorded: It is what the recording was made on; False if it was measured again since.
    """

    table: OperatingPointTable
    is_as_recorded: bool


# Rules:
#   1  A file that is given is taken, if it fits the recording.
#   2  Else the bundle's table that was recorded, to the byte.
#   3  Else the first of the bundle's tables that fits.
# It fits if it is of the recording's device and weights, and has all points that were served.
def find_table(header: TraceHeader, file: Path | None = None, bundle: Path | None = None) -> FoundTable:
    """The table to replay on.

    Args:
        header: Of the recording.
        file: A table to take.
        bundle: Folder of the bundle to look into else; None is the shipped one.

    Raises:
        TraceError: None fits, and what to give.
        BundleError: The bundle or the file cannot be used.
    """
    if file is not None:
        return _fitting(header, OperatingPointTable.load(file), str(file))
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path  # torch takes seconds

    opened = Bundle.open(bundle or shipped_bundle_path())
    complaint: TraceError | None = None
    for table in sorted(opened.tables(), key=lambda table: not _is_recorded(header, table)):
        try:
            return _fitting(header, table, f"bundle {opened.path}")
        except TraceError as error:
            complaint = complaint or error
    raise complaint or TraceError(
        f"bundle {opened.path}: has no operating points: give --table those of {header.table.device}"
    )


def _is_recorded(header: TraceHeader, table: OperatingPointTable) -> bool:
    return TableIdentity.of(table).sha256 == header.table.sha256


def _fitting(header: TraceHeader, table: OperatingPointTable, where: str) -> FoundTable:
    """`table` with the points that were served."""
    recorded = header.table
    remedy = f"give --table the one the daemon served, measured on {recorded.device}"
    if table.device.name != recorded.device:
        raise TraceError(
            f"{where}: operating points of {table.device.name}, but the trace was recorded with those of "
            f"{recorded.device}: {remedy}"
        )
    if table.weights_sha256 != recorded.weights_sha256:
        raise TraceError(
            f"{where}: operating points of other weights than the trace was recorded with: {remedy}"
        )
    known = {point.id for point in table}
    for point_id in recorded.point_ids:
        if point_id not in known:
            raise TraceError(f"{where}: has no operating point {point_id!r}, which the trace names: {remedy}")
    points = tuple(point for point in table if point.id in recorded.point_ids)
    return FoundTable(table.model_copy(update={"points": points}), _is_recorded(header, table))


def rules_of(
    header: TraceHeader, policy: str | None = None, latency_budget_ms: float | None = None
) -> GovernorRules:
    """The recording's rules, with what is given in their place.

    Raises:
        TraceError: The recording's rules are none of this version.
        SettingsError: They, or what is given, cannot work.
    """
    names = {field.name for field in fields(GovernorRules)}
    for name in header.rules:
        if name not in names:
            raise TraceError(f"rule {name!r} of the trace is unknown to this version of dynhat")
    try:
        rules = _RULES.validate_json(json.dumps(header.rules), strict=True)
    except ValidationError as error:
        raise TraceError(f"rule {first_complaint(error)}, in the trace's header") from None
    given: dict[str, object] = {"policy": policy, "latency_budget_ms": latency_budget_ms}
    return replace(rules, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
