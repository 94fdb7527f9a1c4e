"""Searched and published architectures, read from any JSON file that lists some, as one kind of value.

Five kinds are told apart by content: the authors' list (Jetson Nano), HAT's list of published SubTransformers, our
published points, a table of operating points, and the result of a search. Reduces and measures nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import (
    BundleError,
    CheckpointError,
    DesignSpaceError,
    SettingsError,
    first_complaint,
)
from dynhat_runtime.offline.import_hat import config_from_args
from dynhat_runtime.offline.paper_points import DEFAULT_SOURCE, PaperPoints
from dynhat_runtime.operating_point import OperatingPointTable

TASK_SPACES = {
    "wmt14ende": ("paper-wmt14-ende", "reduced-wmt14-ende"),
    "wmt14enfr": ("hat-wmt14-enfr",),
    "wmt19ende": ("hat-wmt19-ende",),
    "iwslt14deen": ("hat-iwslt14-deen",),
}
"""HAT's name of a task -> our design spaces for it."""

KINDS = "the authors' list, HAT's published list, paper_points.json, a table of operating points or a search's result"


@dataclass(frozen=True, slots=True)
class SearchedPoint:
    """One architecture of such a file.

    Attributes:
        id: Names it in messages, and as an operating point.
        device: Slug of the device it was searched or measured for, where the file says so.
        task: HAT's name of the task it was searched for, where the file says so.
        is_of_table_ii: One of the operating points of the paper's Table II.
        predicted_ms: Latency that a search's predictor gave it; None for a point of another kind of file.
    """

    id: str
    config: SubTransformerConfig
    device: str | None = None
    task: str | None = None
    is_of_table_ii: bool = False
    predicted_ms: float | None = None


@dataclass(frozen=True, slots=True)
class SearchedPoints:
    """All architectures of a file, and the design space that the file says they are of."""

    points: tuple[SearchedPoint, ...]
    design_space: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that there are points for."""
        return tuple(sorted({point.device for point in self.points if point.device is not None}))

    def of_device(self, device: str) -> tuple[SearchedPoint, ...]:
        """The points of one device; case and punctuation of its name do not matter.

        Raises:
            SettingsError: There are none; the message lists the devices.
        """
        found = tuple(point for point in self.points if point.device and _same(point.device, device))
        if not found:
            known = f"choose one of {', '.join(self.devices)}" if self.devices else "leave out --device"
            raise SettingsError(f"no points for device {device!r}: {known}")
        return found


def read_searched_points(path: Path) -> SearchedPoints:
    """Read a file of any of the five kinds.

    Raises:
        SettingsError: Naming the file, and the entry and value at fault.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}): give a JSON file of points"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not JSON ({_first_line(error)}): give {KINDS}") from error
    kind = _kind(content)
    if kind is None:
        raise SettingsError(f"{path}: {_outline(content)} is no list of points that is known: give {KINDS}")
    try:
        return kind(content)
    except (DesignSpaceError, CheckpointError, BundleError) as error:
        raise SettingsError(f"{path}: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_complaint(error)}") from error


def slug(name: str) -> str:
    """`name` as an operating point may be called: what an id cannot hold becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:64].strip("._-") or "point"


def _same(one: str, other: str) -> bool:
    """Whether two names of a device differ in case and punctuation only."""
    return re.sub(r"[^a-z0-9]", "", one.lower()) == re.sub(r"[^a-z0-9]", "", other.lower())


def _kind(content: Any) -> Callable[[Any], SearchedPoints] | None:
    """What reads this content.

    Rules: (1) a list is HAT's if its first entry has `hardware`; (2) it is the authors' if that has `device`;
    (3) an object with `front` is a search's result; (4) one with `device` and `points` is a table; (5) one with
    `task` and `points` is ours of published points. Anything else is unknown.
    """
    if isinstance(content, list) and content and isinstance(content[0], dict):
        if "hardware" in content[0]:
            return _of_hat
        if "device" in content[0]:
            return _of_authors
    if isinstance(content, dict):
        if "front" in content:
            return _of_search
        if {"device", "points"} <= content.keys():
            return _of_table
        if {"task", "points"} <= content.keys():
            return _of_published
    return None


def _of_authors(content: list[Any]) -> SearchedPoints:
    points = []
    for position, entry in enumerate(content):
        device, config = _hat_entry(entry, position, "device")
        constraint = entry.get("latency_constraint_ms")
        run = entry.get("search_run")
        name = f"{device}{'' if run is None else f'-run{run}'}-{position if constraint is None else constraint}ms"
        points.append(
            SearchedPoint(slug(name), config, device, "wmt14ende", entry.get("table_ii") is not None)
        )
    return SearchedPoints(_with_distinct_ids(points))


def _of_hat(content: list[Any]) -> SearchedPoints:
    points = []
    for position, entry in enumerate(content):
        device, config = _hat_entry(entry, position, "hardware")
        task, latency_ms = entry.get("task"), entry.get("latency_ms", position)
        points.append(SearchedPoint(slug(f"{task}-{device}-{latency_ms}ms"), config, device, task))
    return SearchedPoints(_with_distinct_ids(points))


def _hat_entry(entry: Any, position: int, device_key: str) -> tuple[str, SubTransformerConfig]:
    """Device and architecture of an entry in HAT's names.

    Raises:
        CheckpointError: The entry lacks one, or the architecture is not HAT's.
        DesignSpaceError: The architecture contradicts itself.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict):
        raise CheckpointError(f"entry {position} holds no 'config': give HAT's fields under that name")
    device = entry.get(device_key)
    if not isinstance(device, str):
        raise CheckpointError(f"entry {position}: {device_key!r} is {device!r}, should name a device")
    try:
        return device, config_from_args(entry["config"], suffix="")
    except CheckpointError as error:
        raise CheckpointError(f"entry {position}: {error}") from error


def _of_search(content: Mapping[str, Any]) -> SearchedPoints:
    version, front = content.get("format_version"), content["front"]
    if version != 1:
        raise CheckpointError(f"format_version is {version!r}, should be 1: search again with this version")
    if not isinstance(front, list) or not front:
        raise CheckpointError("front: lists no points: search again")
    device, space = content.get("device"), content.get("design_space")
    points = []
    for position, entry in enumerate(front):
        if not isinstance(entry, dict) or "config" not in entry:
            raise CheckpointError(f"front.{position} holds no 'config': search again")
        config = SubTransformerConfig.model_validate(entry["config"])
        name = entry.get("id")
        point_id = slug(name) if isinstance(name, str) else f"front-{position + 1}"
        points.append(
            SearchedPoint(
                point_id,
                config,
                slug(device.lower()) if isinstance(device, str) else None,
                predicted_ms=_predicted_ms(entry, position),
            )
        )
    return SearchedPoints(_with_distinct_ids(points), space if isinstance(space, str) else None)


def _predicted_ms(entry: Mapping[str, Any], position: int) -> float | None:
    """What the search predicted for an entry.

    Raises:
        CheckpointError: It is no latency.
    """
    value = entry.get("predicted_ms")
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise CheckpointError(f"front.{position}: predicted_ms={value!r} is no latency: search again")
    return float(value)


def _of_table(content: Mapping[str, Any]) -> SearchedPoints:
    table = OperatingPointTable.model_validate(content)
    device = slug(table.device.name.lower())
    points = tuple(SearchedPoint(point.id, point.config, device) for point in table)
    return SearchedPoints(points, table.design_space)


def _of_published(content: Mapping[str, Any]) -> SearchedPoints:
    published = PaperPoints.model_validate(content)
    points = tuple(
        SearchedPoint(point.id, point.config, point.device, is_of_table_ii=point.source == DEFAULT_SOURCE)
        for point in published.points
    )
    return SearchedPoints(points, published.design_space)


def _with_distinct_ids(points: Iterable[SearchedPoint]) -> tuple[SearchedPoint, ...]:
    """The points, with a number behind an id that came before."""
    seen: dict[str, int] = {}
    distinct = []
    for point in points:
        number = seen[point.id] = seen.get(point.id, 0) + 1
        point_id = point.id if number == 1 else f"{point.id}-{number}"
        distinct.append(replace(point, id=point_id))
    return tuple(distinct)


def _outline(content: Any) -> str:
    """What a file holds, in a few words."""
    if isinstance(content, dict):
        return f"an object of {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
    if isinstance(content, list):
        if content and isinstance(content[0], dict):
            return f"a list whose entries have {', '.join(map(repr, list(content[0])[:5])) or 'nothing'}"
        return "an empty list" if not content else f"a list of {type(content[0]).__name__}"
    return f"{content!r:.40}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
