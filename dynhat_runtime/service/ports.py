"""What the service asks of the engine and of the control loop, as protocols. Implements nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Literal, Protocol

from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

Mode = Literal["auto", "pinned"]


class Translated(Protocol):
    """One text's translation."""

    @property
    def text(self) -> str:
        """The translation."""

    @property
    def operating_point(self) -> str:
        """Id of the point that produced it; the same for all texts of a request."""


class EnginePort(Protocol):
    """A started translation engine."""

    @property
    def table(self) -> OperatingPointTable:
        """The points it can serve."""

    @property
    def active_point_id(self) -> str:
        """Id of the point that the next translation will use."""

    @property
    def src_lang(self) -> str:
        """Code of the language it reads."""

    @property
    def tgt_lang(self) -> str:
        """Code of the language it writes."""

    def submit(self, texts: Sequence[str], *, beam_size: int | None = None) -> Future[Any]:
        """A future of one `Translated` per text (Any: futures are invariant).

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
        """


class ControlStatusPort(Protocol):
    """What the control loop last decided, and on what grounds."""

    @property
    def active_id(self) -> str:
        """Id of the active operating point."""

    @property
    def mode(self) -> Mode:
        """Who chooses: the governor, or whoever pinned a point."""

    @property
    def since_utc(self) -> datetime:
        """When the active point became active."""

    @property
    def reason(self) -> str:
        """Why it did."""

    @property
    def snapshot(self) -> ResourceSnapshot | None:
        """The latest reading of the device."""


class ControlPort(Protocol):
    """A started control loop."""

    def status(self) -> ControlStatusPort:
        """The present state, as a value."""

    def pin(self, point_id: str) -> None:
        """Keep one point active.

        Raises:
            UnknownOperatingPointError: No such point.
        """

    def set_auto(self) -> None:
        """Let the governor choose again."""
