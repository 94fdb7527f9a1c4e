"""Sense: readings of the device as `ResourceSnapshot` values. Decides nothing.

A module belongs here if it turns sensors (or a recording of them) into snapshots. It stamps the time, and
says None for what the device lacks or cannot tell. What a reading means is the governor's affair.
"""

from __future__ import annotations

from typing import Protocol

from dynhat_runtime.resource_snapshot import ResourceSnapshot


class Monitor(Protocol):
    """Whatever can be asked for the device's resources now."""

    def read(self) -> ResourceSnapshot:
        """One reading. A failing sensor is None in it.

        Raises:
            MonitorError: There is nothing left to read, such as the end of a recording.
        """
        ...
