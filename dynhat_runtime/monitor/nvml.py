"""A discrete NVIDIA GPU as a monitor: its clock, ceiling, load and temperature, from NVIDIA's management library.

The only importer of pynvml (package nvidia-ml-py), lazily: without it, or without the driver, every field is None.
Tells of the first GPU. Switches nothing. An Orin's NVML starts but supports none of the questions: all None.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynhat_runtime.monitor.files import (
    COLDEST_BELIEVED_CELSIUS,
    FASTEST_BELIEVED_HZ,
    HOTTEST_BELIEVED_CELSIUS,
    believable,
    frequency_hz,
)
from dynhat_runtime.monitor.sensor import Sensor, SensorReader
from dynhat_runtime.resource_snapshot import ResourceSnapshot

HZ_PER_MHZ = 1e6
NO_GPU = (2, 6, 28)
"""What the library answers where it has no first GPU: invalid argument, not found, GPU not found."""


@dataclass(frozen=True, slots=True)
class NvmlReading:
    """What the GPU says; None is what it does not support."""

    current_hz: float | None
    max_hz: float | None
    load_fraction: float | None
    celsius: float | None


class Nvml:
    """The library, opened when it is first asked and again after it failed."""

    def __init__(self) -> None:
        self._library: Any = _pynvml()
        self._gpu: Any = None

    def read(self) -> NvmlReading | None:
        """The first GPU; None without package, library, driver or GPU, or where it supports nothing.

        Raises:
            Exception: The library failed after it had answered, such as for a GPU that is lost.
            ValueError: The GPU says something absurd.
        """
        if self._library is None or (self._gpu is None and not self._open()):
            return None
        try:
            reading = self._read()
        except self._library.NVMLError:
            self._close()
            raise
        return None if reading == NvmlReading(None, None, None, None) else reading

    def _open(self) -> bool:
        """Whether there is a GPU to ask; any trouble but its absence is raised."""
        nvml = self._library
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            return False
        try:
            self._gpu = nvml.nvmlDeviceGetHandleByIndex(0)
        except nvml.NVMLError as error:
            self._close()
            if error.value in NO_GPU:
                return False
            raise
        return True

    def _read(self) -> NvmlReading:
        nvml, gpu = self._library, self._gpu
        current = self._ask(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))
        ceiling = self._ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM))
        load = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
        celsius = self._ask(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
        return NvmlReading(
            current_hz=_if_said(
                current, lambda mhz: believable(mhz * HZ_PER_MHZ, 0, FASTEST_BELIEVED_HZ, "clock")
            ),
            max_hz=_if_said(ceiling, lambda mhz: frequency_hz(mhz * HZ_PER_MHZ, "ceiling of the clock")),
            load_fraction=_if_said(load, lambda percent: believable(percent, 0, 100, "load") / 100.0),
            celsius=_if_said(
                celsius,
                lambda said: believable(
                    said, COLDEST_BELIEVED_CELSIUS, HOTTEST_BELIEVED_CELSIUS, "temperature"
                ),
            ),
        )

    def _ask(self, question: Callable[[], float]) -> float | None:
        """The answer; None if this GPU does not support the question."""
        try:
            return float(question())
        except (self._library.NVMLError_NotSupported, self._library.NVMLError_FunctionNotFound):
            return None

    def _close(self) -> None:
        self._gpu = None
        with contextlib.suppress(self._library.NVMLError):  # it failed already: that is why it is closed
            self._library.nvmlShutdown()


def _pynvml() -> Any:
    """The package; None where it is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


class NvmlMonitor:
    """Reads the first discrete GPU. Not thread-safe: one caller at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the sensor; NVIDIA's library is opened when it is first read.

        Args:
            clock: Stamps the snapshots, in seconds.
        """
        self._gpu = Sensor("nvml", Nvml().read)
        self._reader = SensorReader((self._gpu,), clock)

    def read(self) -> ResourceSnapshot:
        """One reading. Never raises for a failing library, never waits long for one that hangs."""
        return self.snapshot(self._reader.refresh())

    @property
    def sensors(self) -> tuple[Sensor[NvmlReading], ...]:
        """The one that `snapshot` tells of."""
        return (self._gpu,)

    def snapshot(self, now_s: float) -> ResourceSnapshot:
        """What the library last said."""
        gpu = self._gpu.value(now_s) or NvmlReading(None, None, None, None)
        return ResourceSnapshot(
            monotonic_s=now_s,
            source="nvml",
            gpu_current_frequency_hz=gpu.current_hz,
            gpu_max_frequency_hz=gpu.max_hz,
            gpu_load_fraction=gpu.load_fraction,
            temperature_celsius=gpu.celsius,
            sensors=self._reader.states(),
        )

    def close(self) -> None:
        """End the reading thread."""
        self._reader.close()


def _if_said(said: float | None, check: Callable[[float], float]) -> float | None:
    return None if said is None else check(said)
