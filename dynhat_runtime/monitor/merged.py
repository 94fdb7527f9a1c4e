"""Several monitors as one: each field from the first that has it. Reads no sensor itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from dynhat_runtime.monitor import DeviceMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot

FIELDS = tuple(
    field.name for field in fields(ResourceSnapshot) if field.name not in ("monotonic_s", "source", "sensors")
)


class MergedMonitor:
    """The host's monitor, and those of what it has besides. Not thread-safe: one caller at a time."""

    def __init__(self, base: DeviceMonitor, others: Sequence[DeviceMonitor]) -> None:
        """Join them.

        Args:
            base: Asked first; what it has stands.
            others: Asked in turn for what is still missing.
        """
        self._base = base
        self._others = tuple(others)

    def read(self) -> ResourceSnapshot:
        """One reading, stamped when the last part was read; named after the first other part that has a sensor."""
        merged = self._base.read()
        source = None
        for part in self._others:
            found = part.read()
            if not found.sensors:  # nothing there, nothing to take over: most parts on most hosts
                merged = replace(merged, monotonic_s=found.monotonic_s)
                continue
            source = source or found.source
            missing = {name: getattr(found, name) for name in FIELDS if getattr(merged, name) is None}
            merged = replace(
                merged,
                **missing,
                monotonic_s=found.monotonic_s,
                sensors=(*merged.sensors, *found.sensors),
            )
        return merged if source is None else replace(merged, source=source)

    def close(self) -> None:
        """Close all parts."""
        for part in (self._base, *self._others):
            part.close()
