"""The composition root: settings become objects, the objects a daemon, and a signal takes it down again.

Start: check paths, open the socket, answer "loading"; build and start engine and loop on a thread; ready.
Stop (SIGTERM, SIGINT): refuse new translations, finish those in flight, stop control loop and engine, close.
A second signal stops waiting for requests; a third has the system's default effect.

Sockets inherited from systemd outlive the daemon, so nobody is refused: nothing is accepted before it can be
answered, and at the end what was not accepted is left in the socket's queue for the next daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import uvicorn

from dynhat_runtime.errors import DynhatError, SettingsError
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.heartbeat import Heartbeat, StallLimits, status_of
from dynhat_runtime.journal_lines import JournalFormatter, leads_to_journal
from dynhat_runtime.listeners import Listeners
from dynhat_runtime.observation import Observation
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.ports import ControlPort, EnginePort
from dynhat_runtime.service.trace import TracePort
from dynhat_runtime.settings import Settings
from dynhat_runtime.systemd_notify import Notifier, watchdog_period_s

SHORTEST_STOP_S = 1.0
"""What the engine gets to stop even when draining took all the time there was."""

CLOSING_S = 2
"""What clients get to close their connections once everything is answered."""

FIRST_REQUEST_S = 1.0
"""What a client that has connected gets to send its request, when the socket is handed over."""

POLL_S = 0.02

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


def build_runtime(settings: Settings) -> Runtime:
    """Load the bundle and its table, and put the engine and the control loop on them.

    Raises:
        DynhatError: What is wrong with the bundle, the table or the device.
    """
    # Imported here: torch takes seconds, and the daemon answers before that.
    from dynhat_runtime.control_loop import ControlLoop
    from dynhat_runtime.engine import TranslationEngine
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
    from dynhat_runtime.monitor import choose_monitor
    from dynhat_runtime.monitor.identity import device_name
    from dynhat_runtime.trace import TableIdentity
    from dynhat_runtime.trace_ring import TraceRing, header_of

    bundle = Bundle.open(settings.bundle or shipped_bundle_path())
    table = bundle.table(settings.table)
    if table.device.name != device_name():
        logger.warning(
            "operating points were measured on %s, this is %s: measure them here with 'dynhat profile --points'",
            table.device.name,
            device_name(),
        )
    budget_ms = settings.latency_budget_ms or table.default_latency_budget_ms

    def observe(observation: Observation) -> None:
        """Hand on what a batch took. The control loop is there by then: nothing is translated before `start`."""
        control.observe(observation)

    engine = TranslationEngine.load(
        bundle,
        table,
        beam_size=settings.beam_size,
        queue_limit_sentences=settings.queue_limit_sentences,
        on_finished=observe,
    )
    rules = _rules(settings, budget_ms)
    served_ids = tuple(point.id for point in engine.table)
    trace_ring = TraceRing(header_of(TableIdentity.of(table, served_ids), rules))
    monitor = choose_monitor(settings.monitor)
    control = ControlLoop(
        monitor,
        engine,
        engine.table,  # without the points that were refused
        rules,
        interval_s=settings.control_interval_s,
        recorder=trace_ring,
    )
    return Runtime(engine, control, budget_ms, trace_ring, monitor.close)


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


def run(settings: Settings, build: Callable[[Settings], Runtime] = build_runtime) -> int:
    """Serve until told to stop; the process exit status.

    Args:
        settings: What the operator chose.
        build: Makes what is served; tests bring their own.

    Raises:
        DynhatError: The daemon could not start; its message says what to do.
    """
    notifier = Notifier.from_environment()
    try:
        _check_paths(settings)
        listeners = Listeners.open(settings.host, settings.port)
        _log_to_stderr(settings.log_level)
        faulthandler.enable()  # a watchdog's SIGABRT leaves every thread's stack in the log
        asyncio.run(_Daemon(settings, listeners, build, notifier).serve())
    except DynhatError as error:
        notifier.status(f"failed: {error}")
        raise
    return 0


def _log_to_stderr(level: str) -> None:
    """Lines for people, or for systemd's journal, which has its own clock and wants each line's priority."""
    handler = logging.StreamHandler(sys.stderr)
    if leads_to_journal(sys.stderr):
        handler.setFormatter(JournalFormatter(logging.Formatter("%(message)s")))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper())
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))


def _check_paths(settings: Settings) -> None:
    """What can be said of the paths at once, before anything is loaded."""
    if settings.bundle is not None and not settings.bundle.is_dir():
        raise SettingsError(f"bundle {settings.bundle} is not a folder: give --bundle a bundle's folder")
    if settings.table is not None and not settings.table.is_file():
        raise SettingsError(f"table {settings.table} is not a file: measure one with 'dynhat profile'")


async def _first_of(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Return when one of them is done, or time is up."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: it would close the door before the daemon has drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the daemon."""
        yield


class _Daemon:
    """One run from the open socket to the closed one."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        build: Callable[[Settings], Runtime],
        notifier: Notifier,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._build = build
        self._notifier = notifier
        self._url = listeners.urls
        self._lifecycle = Lifecycle()
        self._told_to_stop = asyncio.Event()
        self._told_to_hurry = asyncio.Event()
        self._trace: TracePort | None = None
        limits = RequestLimits(settings.char_limit, settings.batch_limit, settings.request_timeout_s)
        app = create_app(self._lifecycle, limits, lambda: self._trace)
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=CLOSING_S,
            )
        )

    async def serve(self) -> None:
        """Load, serve, drain, close; raises what loading raised."""
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, self._on_signal)
        loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        serving = asyncio.ensure_future(self._serve_http(loading))
        heartbeat = asyncio.ensure_future(self._heartbeat().run(watchdog_period_s()))
        try:
            await self._serve_until_told(loading, serving)
            await self._drain_and_stop(loading)
        finally:
            self._server.should_exit = True
            await serving
            heartbeat.cancel()

    async def _serve_http(self, loading: asyncio.Future[Runtime]) -> None:
        """Answer on all sockets; on inherited ones not before there is something to answer with."""
        if self._listeners.are_inherited:
            await asyncio.wait({loading})
            if loading.exception() is not None or self._told_to_stop.is_set():
                return
        await self._server.serve(sockets=list(self._listeners.sockets))

    def _heartbeat(self) -> Heartbeat:
        """Watches whatever is loaded."""
        limits = StallLimits(self._settings.stall_factor, self._settings.stall_floor_s)
        return Heartbeat(self._notifier, self._lifecycle, limits)

    def _load(self) -> Runtime:
        """Build and start; runs on a thread of its own."""
        runtime = self._build(self._settings)
        runtime.start()
        return runtime

    async def _serve_until_told(
        self, loading: asyncio.Future[Runtime], serving: asyncio.Future[None]
    ) -> None:
        """Return when a signal came, during loading or after."""
        logger.info("loading: %s", self._url)
        told = asyncio.ensure_future(self._told_to_stop.wait())
        await _first_of(loading, told, serving)
        if loading.done() and not told.done():
            if loading.exception() is not None:
                self._lifecycle.fail()
            self._announce(loading.result())
            await _first_of(told, serving)
        told.cancel()

    def _announce(self, runtime: Runtime) -> None:
        """Open for translations."""
        engine = runtime.engine
        self._trace = runtime.trace
        self._lifecycle.ready(Serving(engine, runtime.control))
        logger.info(
            "ready: %s operating point %s of %d, budget %g ms",
            self._url,
            engine.active_point_id,
            len(engine.table),
            runtime.latency_budget_ms,
        )
        self._notifier.ready(status_of(self._lifecycle.serving))

    async def _drain_and_stop(self, loading: asyncio.Future[Runtime]) -> None:
        """Let requests finish, then stop what translates. Health answers "draining" all the while."""
        deadline_s = time.monotonic() + self._settings.drain_timeout_s
        self._notifier.stopping("draining")
        if self._listeners.are_inherited:
            await self._hand_over(deadline_s)
        self._lifecycle.drain()
        logger.info("draining: %d requests in flight", self._lifecycle.num_in_flight)
        idle = asyncio.ensure_future(self._lifecycle.wait_idle())
        hurry = asyncio.ensure_future(self._told_to_hurry.wait())
        await _first_of(idle, hurry, timeout_s=max(0.0, deadline_s - time.monotonic()))
        if not idle.done():
            logger.warning("giving up on %d requests in flight", self._lifecycle.num_in_flight)
        idle.cancel()
        hurry.cancel()
        await asyncio.wait({loading})
        if loading.exception() is None:
            timeout_s = max(SHORTEST_STOP_S, deadline_s - time.monotonic())
            await asyncio.to_thread(loading.result().stop, timeout_s)
        logger.info("stopped")

    async def _hand_over(self, deadline_s: float) -> None:
        """Accept nothing more, and answer whoever has been accepted; the socket's queue waits for the next daemon."""
        for server in getattr(self._server, "servers", ()):  # none before uvicorn has begun
            server.close()
        self._lifecycle.hand_over()
        logger.info("handing over the socket: %d requests in flight", self._lifecycle.num_in_flight)
        first_request_s = time.monotonic() + FIRST_REQUEST_S
        while self._server.server_state.connections and not self._told_to_hurry.is_set():
            now_s = time.monotonic()
            if now_s >= deadline_s or (now_s >= first_request_s and not self._lifecycle.num_in_flight):
                break
            await asyncio.sleep(POLL_S)

    def _on_signal(self) -> None:
        """First: drain. Second: hurry, and leave a third to the system."""
        if not self._told_to_stop.is_set():
            self._told_to_stop.set()
            return
        self._told_to_hurry.set()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(signal_number)
