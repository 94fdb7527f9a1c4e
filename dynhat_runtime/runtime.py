"""What the daemon serves: engine, control loop, recorder and monitor, built from settings and started together.

Built again from other settings, a runtime shares weights, sensors and totals with the one it takes over from. Opens
no socket and handles no signal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dynhat_runtime.errors import BundleError, SettingsError
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.queue_load import QueueLimits
from dynhat_runtime.service.ports import ControlPort, EnginePort
from dynhat_runtime.service.trace import TracePort
from dynhat_runtime.settings import Settings
from dynhat_runtime.tally import ControlTallies, EngineTallies

if TYPE_CHECKING:
    from dynhat_runtime.model.checkpoint import Bundle
    from dynhat_runtime.monitor import DeviceMonitor
    from dynhat_runtime.operating_point import OperatingPointTable
    from dynhat_runtime.served_points import LoadedModel

SHORTEST_STOP_S = 1.0
"""What the engine gets to stop even when draining took all the time there was."""

logger = logging.getLogger(__name__)


class StartableEngine(EnginePort, Protocol):
    """An engine together with its start and stop."""

    def start(self) -> None:
        """Begin to translate."""

    def stop(self, timeout_s: float) -> None:
        """Fail what waits, finish what runs if it takes no longer than `timeout_s`."""


class StartableControl(ControlPort, Protocol):
    """A control loop together with its start and stop."""

    def start(self) -> None:
        """Begin to decide."""

    def stop(self) -> None:
        """Decide no more."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What has to be loaded before the daemon is ready."""

    engine: StartableEngine
    control: StartableControl
    latency_budget_ms: float
    trace: TracePort | None = None
    """Holds what happened of late."""
    close_monitor: Callable[[], None] = lambda: None
    """Ends what senses, once nobody asks it any more."""
    renew: Callable[[Settings], Runtime | None] = lambda _settings: None
    """Another one for other settings over the same weights, not started; None where nothing it is made of differs."""

    def start(self) -> None:
        """Engine first: the control loop acts on it."""
        self.engine.start()
        try:
            self.control.start()
        except BaseException:
            self.engine.stop(SHORTEST_STOP_S)
            raise

    def stop(self, timeout_s: float) -> None:
        """In the reverse order."""
        self.control.stop()
        self.close_monitor()
        self.engine.stop(timeout_s)

    def take_over_from(self, old: Runtime) -> None:
        """Start in the place of `old`, whose engine goes on with what it has begun. A pinned point stays pinned.

        No two control loops read the sensors at a time.
        """
        status = old.control.status()
        old.control.stop()
        try:
            self.start()
        except BaseException:
            old.control.start()
            raise
        if status.mode != "pinned":
            return
        if status.active_id in self.engine.table.quality_by_id():
            self.control.pin(status.active_id)
        else:
            logger.warning("pinned point %s is not in the new table: the governor chooses", status.active_id)


def build_runtime(settings: Settings) -> Runtime:
    """Load the bundle and its table, and put the engine and the control loop on them.

    Raises:
        DynhatError: What is wrong with the bundle, the table or the device.
    """
    # Imported here: torch takes seconds, and the daemon answers before that.
    from dynhat_runtime.monitor import choose_monitor
    from dynhat_runtime.served_points import LoadedModel

    bundle = _open_bundle(settings)
    table = bundle.table(settings.table)
    model = LoadedModel.of_bundle(bundle)
    loaded = _Loaded(bundle.weights_sha256, bundle.shortlist_sha256, model, choose_monitor(settings.monitor))
    return loaded.runtime(settings, table)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What outlives a reload."""

    weights_sha256: str
    shortlist_sha256: str | None
    model: LoadedModel
    monitor: DeviceMonitor
    engine_tallies: EngineTallies = field(default_factory=EngineTallies)
    control_tallies: ControlTallies = field(default_factory=ControlTallies)

    def runtime(self, settings: Settings, table: OperatingPointTable) -> Runtime:
        """Engine and control loop for `table`."""
        from dynhat_runtime.control_loop import ControlLoop
        from dynhat_runtime.engine import TranslationEngine
        from dynhat_runtime.trace import TableIdentity
        from dynhat_runtime.trace_ring import TraceRing, header_of

        _warn_of_another_device(table)
        budget_ms = settings.latency_budget_ms or table.default_latency_budget_ms

        def observe(observation: Observation) -> None:
            """Hand on what a batch took. The control loop is there by then: nothing is translated before `start`."""
            control.observe(observation)

        engine = TranslationEngine.load(
            self.model,
            table,
            beam_size=settings.beam_size,
            queue_limits=_queue_limits(settings),
            on_finished=observe,
            tallies=self.engine_tallies,
        )
        rules = _rules(settings, budget_ms)
        served_ids = tuple(point.id for point in engine.table)
        trace_ring = TraceRing(header_of(TableIdentity.of(table, served_ids), rules))
        control = ControlLoop(
            self.monitor,
            engine,
            engine.table,  # without the points that were refused
            rules,
            interval_s=settings.control_interval_s,
            recorder=trace_ring,
            tallies=self.control_tallies,
        )

        def renew(new: Settings) -> Runtime | None:
            return self._renewed(settings, table, new)

        return Runtime(engine, control, budget_ms, trace_ring, self.monitor.close, renew)

    def _renewed(self, old: Settings, old_table: OperatingPointTable, new: Settings) -> Runtime | None:
        """The runtime for `new`, if the table's file or a setting it is made of is another."""
        bundle = _open_bundle(new)
        bundle.check_weights(self.weights_sha256)
        if bundle.shortlist_sha256 != self.shortlist_sha256:
            raise BundleError(f"{bundle.path}: the vocabulary shortlist is another now: restart to load it")
        table = bundle.table(new.table)
        if table == old_table and _made_of(old) == _made_of(new):
            return None
        return self.runtime(new, table)


def _made_of(settings: Settings) -> tuple[object, ...]:
    """The settings that engine and control loop are made of."""
    return (
        _rules(settings, settings.latency_budget_ms or 1.0),
        settings.latency_budget_ms,
        settings.control_interval_s,
        _queue_limits(settings),
    )


def _open_bundle(settings: Settings) -> Bundle:
    """The bundle, if it holds languages that may be served."""
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path

    bundle = Bundle.open(settings.bundle or shipped_bundle_path())
    languages = (bundle.src_lang, bundle.tgt_lang)
    if settings.load_only and not set(languages) <= set(settings.load_only):
        raise SettingsError(
            f"setting load_only = {','.join(settings.load_only)} leaves out what the bundle translates "
            f"({' to '.join(languages)}): add both, or name another bundle"
        )
    return bundle


def _warn_of_another_device(table: OperatingPointTable) -> None:
    from dynhat_runtime.monitor.identity import device_name

    if table.device.name != device_name():
        logger.warning(
            "operating points were measured on %s, this is %s: measure them here with 'dynhat profile --points'",
            table.device.name,
            device_name(),
        )


def _queue_limits(settings: Settings) -> QueueLimits:
    return QueueLimits(
        requests=settings.queue_limit_requests,
        sentences=settings.queue_limit_sentences,
        tokens=settings.queue_limit_tokens,
    )


def _rules(settings: Settings, budget_ms: float) -> GovernorRules:
    """What the operator asks of the governor."""
    return GovernorRules(
        latency_budget_ms=budget_ms,
        policy=settings.policy,
        confidence=settings.confidence,
        dwell_s=settings.dwell_s,
        max_step_ups_per_minute=settings.max_switches_per_minute,
        num_busy_neighbours=settings.busy_neighbours,
        num_tokens=settings.reference_tokens,
        beam_size=settings.beam_size,
        min_quality=settings.min_quality,
        temperature_limit_celsius=settings.temperature_limit_celsius,
        cooling_limit_fraction=settings.cooling_limit_fraction,
        power_limit_mw=settings.power_limit_mw,
        memory_floor_mib=settings.memory_floor_mib,
        battery_saver_fraction=settings.battery_saver_fraction,
    )
