"""One reading of the device as a value. What a device lacks, or a sensor cannot say, is None, never zero.

Time arrives here: whoever reads the sensors stamps the snapshot, so that the governor needs no clock.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorState:
    """Whether one sensor answers."""

    name: str
    is_up: bool
    error: str | None = None
    """What it said last, while it is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSnapshot:
    """The device's resources at one moment. Caps (`max_*`, usable CPUs, quota) say what work may use;
    momentary clocks only say what it uses now."""

    monotonic_s: float
    """Monotonic clock when the reading was complete."""
    source: str
    """Name of the monitor that read it: host, jetson, nvml or replay."""
    usable_cpus: tuple[int, ...] | None = None
    """CPU numbers this process may run on (affinity)."""
    cpu_quota_cpus: float | None = None
    """CPU time the cgroup grants, in CPUs (0.5 = half of one); None = no quota."""
    cpu_quota_period_ms: float | None = None
    """Within which that time is granted anew; None = no quota."""
    cpu_current_frequency_hz: float | None = None
    cpu_max_frequency_hz: float | None = None
    cpu_load_fraction: float | None = None
    """Busy share of all CPUs since the previous reading, 0..1."""
    cpu_pressure_fraction: float | None = None
    """Share of the last 10 s in which some task waited for a CPU (PSI), 0..1."""
    memory_available_mib: float | None = None
    memory_total_mib: float | None = None
    process_memory_mib: float | None = None
    temperature_celsius: float | None = None
    """The hottest thermal zone."""
    gpu_current_frequency_hz: float | None = None
    gpu_max_frequency_hz: float | None = None
    gpu_load_fraction: float | None = None
    power_mode: str | None = None
    """Name of the board's power mode, such as MAXN; its number where no name is known."""
    power_mw: float | None = None
    """Power the whole board draws."""
    online_cpus: tuple[int, ...] | None = None
    """CPU numbers switched on, whoever may use them."""
    cooling_state_fraction: float | None = None
    """The most engaged cooling device's state over its highest, 0 (no throttling) .. 1."""
    battery_fraction: float | None = None
    """Charge, 0..1."""
    on_battery: bool | None = None
    sensors: tuple[SensorState, ...] = ()
    """Every sensor that was asked and that the device has, in a fixed order. A field is None where its sensor is
    down; where the device has no such sensor, none is listed."""

    @property
    def effective_cpus(self) -> float | None:
        """CPUs' worth of time this process can get: the usable CPUs that are online, bounded by the quota."""
        if self.num_online_cpus is None:
            return self.cpu_quota_cpus
        num_cpus = float(self.num_online_cpus)
        return num_cpus if self.cpu_quota_cpus is None else min(num_cpus, self.cpu_quota_cpus)

    @property
    def num_online_cpus(self) -> int | None:
        """Usable CPUs that are online, whatever the quota."""
        cpus = self.online_cpus if self.usable_cpus is None else self.usable_cpus
        if cpus is None:
            return None
        # Two lists that contradict each other (another machine's sysfs) leave the affinity, which is ours for sure.
        return len([cpu for cpu in cpus if self.online_cpus is None or cpu in self.online_cpus] or cpus)

    def as_dict(self) -> dict[str, object]:
        """All fields and `effective_cpus`, ready for JSON."""
        return {**asdict(self), "effective_cpus": self.effective_cpus}
