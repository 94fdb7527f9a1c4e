"""Several monitors as one: each field from the first that has it; their sensors are asked in one round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, Protocol

from dynhat_runtime.monitor.sensor import LONGEST_REFRESH_S, Sensor, SensorReader
from dynhat_runtime.resource_snapshot import ResourceSnapshot

FIELDS = tuple(
    field.name for field in fields(ResourceSnapshot) if field.name not in ("monotonic_s", "source", "sensors")
)


class Part(Protocol):
    """A monitor whose sensors somebody else may ask: a thread to wake for each part costs more than their reading."""

    @property
    def sensors(self) -> tuple[Sensor[Any], ...]:
        """Those to ask."""
        ...

    def snapshot(self, now_s: float) -> ResourceSnapshot:
        """What they last answered, asked at `now_s`; a part may ask further ones itself."""
        ...

    def close(self) -> None:
        """End what it has running."""
        ...


class MergedMonitor:
    """The host's monitor, and those of what it has besides. Not thread-safe: one caller at a time."""

    def __init__(
        self, base: Part, others: Sequence[Part], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Join them.

        Args:
            base: Asked first; what it has stands.
            others: Asked in turn for what is still missing.
            clock: Stamps the snapshots, in seconds.
        """
        self._parts = (base, *others)
        sensors = [sensor for part in self._parts for sensor in part.sensors]
        self._reader = SensorReader(sensors, clock, LONGEST_REFRESH_S * len(self._parts))

    def read(self) -> ResourceSnapshot:
        """One reading, stamped when the last part was read; named after the first other part that has a sensor."""
        now_s = self._reader.refresh()
        found = [part.snapshot(now_s) for part in self._parts]
        # What has no sensor has nothing to take over: most parts on most hosts.
        told = [found[0], *(snapshot for snapshot in found[1:] if snapshot.sensors)]
        values = {name: _first([getattr(snapshot, name) for snapshot in told]) for name in FIELDS}
        return ResourceSnapshot(
            monotonic_s=max(snapshot.monotonic_s for snapshot in found),
            source=told[min(1, len(told) - 1)].source,
            sensors=tuple(chain.from_iterable(snapshot.sensors for snapshot in told)),
            **values,
        )

    def close(self) -> None:
        """Close all parts."""
        self._reader.close()
        for part in self._parts:
            part.close()


def _first(values: Sequence[Any]) -> Any:
    """The first that is not None."""
    for value in values:
        if value is not None:
            return value
    return None
