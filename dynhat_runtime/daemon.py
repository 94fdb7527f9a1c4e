"""The composition root: settings become objects, the objects a daemon, and a signal takes it down again.

Start: check paths, open the socket, answer "loading"; build and start engine and loop on a thread; ready.
Reload (SIGHUP): read settings, keys, table and certificate anew, check all of them, then replace what differs; on any
error everything stays as it was. A key file that changes is read anew by itself.
Stop (SIGTERM, SIGINT): ready no more; after the grace refuse new translations, finish those in flight, stop control
loop and engine, close. A second signal waits for nobody; a third has the system's default effect.

Sockets inherited from systemd outlive the daemon, so nobody is refused: nothing is accepted before it can be
answered, and at the end what was not accepted is left in the socket's queue for the next daemon.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from dynhat_runtime.c_allocator import release_free_memory
from dynhat_runtime.errors import DynhatError, SettingsError
from dynhat_runtime.heartbeat import Heartbeat, StallLimits, status_of
from dynhat_runtime.housekeeping import Housekeeping
from dynhat_runtime.http_server import POLL_S, Entrance, HttpServer
from dynhat_runtime.listeners import Listeners, allow_many_connections
from dynhat_runtime.logs import configure_logging
from dynhat_runtime.memory_shortage import low_memory_error
from dynhat_runtime.runtime import SHORTEST_STOP_S, Runtime, build_runtime
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.metrics import Metrics
from dynhat_runtime.settings import Settings, restart_needed
from dynhat_runtime.systemd_notify import Notifier, watchdog_period_s
from dynhat_runtime.telemetry import RequestSpans
from dynhat_runtime.terms import answer_alike, check_exposure, check_tls, keys_of, limits_of, terms_of

HANDOVER_S = 1.0
"""After a reload, what a request gets that has looked up the old engine and not yet given it its texts."""

FIRST_REQUEST_S = 1.0
"""What a client that has connected gets to send its request, when the socket is left to the next daemon."""

KEY_WATCH_S = 1.0
"""Between two looks at the key file."""

NUM_HELPERS = 2
"""Threads for what would hold up the event loop: loading, a reload, an engine that is stopped meanwhile."""

logger = logging.getLogger(__name__)


def run(
    settings: Settings,
    build: Callable[[Settings], Runtime] = build_runtime,
    reread: Callable[[], Settings] | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until told to stop; the process exit status.

    Args:
        settings: What the operator chose.
        build: Makes what is served; tests bring their own.
        reread: Reads the settings anew for a reload; None keeps those there are.
        on_ready: Hears once that everything is loaded.

    Raises:
        DynhatError: The daemon could not start; its message says what to do.
    """
    notifier = Notifier.from_environment()
    try:
        _check_paths(settings)
        keys = keys_of(settings)
        is_https = check_tls(settings.tls_certificate, settings.tls_key)
        allow_many_connections()
        listeners = Listeners.open(
            settings.host, settings.port, lambda listener: check_exposure(settings, listener)
        )
        configure_logging(settings.log_level, settings.log_format)
        spans = None if settings.tracing_endpoint is None else RequestSpans(settings.tracing_endpoint)
        faulthandler.enable()  # a watchdog's SIGABRT leaves every thread's stack in the log
        reread = reread or (lambda: settings)
        daemon = _Daemon(settings, listeners, build, reread, on_ready, keys, is_https, spans, notifier)
        asyncio.run(daemon.serve())
        if spans is not None:
            spans.close()
    except Exception as error:
        ours = error if isinstance(error, DynhatError) else low_memory_error(error)
        if ours is None:
            raise
        notifier.status(f"failed: {ours}")
        raise ours from error
    return 0


def _check_paths(settings: Settings) -> None:
    """What can be said of the paths at once, before anything is loaded."""
    if settings.bundle is not None and not settings.bundle.is_dir():
        raise SettingsError(f"bundle {settings.bundle} is not a folder: give --bundle a bundle's folder")
    if settings.table is not None and not settings.table.is_file():
        raise SettingsError(f"table {settings.table} is not a file: measure one with 'dynhat profile'")


async def _first_of(*futures: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Return when one of them is done, or time is up."""
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


class _Daemon:
    """One run from the open socket to the closed one."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        build: Callable[[Settings], Runtime],
        reread: Callable[[], Settings],
        on_ready: Callable[[], None],
        keys: KeyRing | None,
        is_https: bool,
        spans: RequestSpans | None,
        notifier: Notifier,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._notifier = notifier
        self._build = build
        self._reread = reread
        self._on_ready = on_ready
        self._spans = spans
        self._url = listeners.urls("https" if is_https else "http")
        self._lifecycle = Lifecycle()
        self._metrics = Metrics(self._lifecycle)
        self._told_to_stop = asyncio.Event()
        self._told_to_hurry = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._runtime: Runtime | None = None
        self._retiring: set[asyncio.Future[None]] = set()
        self._keys = keys
        self._entrance = Entrance(self._app(settings, keys))
        tls = (settings.tls_certificate, settings.tls_key) if is_https else ()
        self._server = HttpServer(self._entrance, *tls)

    def _app(self, settings: Settings, keys: KeyRing | None) -> ASGIApp:
        """The application on the terms of `settings`."""
        return create_app(
            self._lifecycle,
            limits_of(settings),
            lambda: None if self._runtime is None else self._runtime.trace,
            terms=terms_of(settings, keys),
            metrics=self._metrics,
            spans=self._spans,
        )

    async def serve(self) -> None:
        """Load, serve, drain, close; raises what loading raised."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(NUM_HELPERS, "helper"))
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loading = asyncio.ensure_future(asyncio.to_thread(self._load))
        serving = asyncio.ensure_future(self._serve_http(loading))
        watching = asyncio.ensure_future(self._watch_keys())
        beating = asyncio.ensure_future(self._heartbeat().run(watchdog_period_s()))
        tidying = asyncio.ensure_future(Housekeeping(self._lifecycle).run())
        try:
            await self._serve_until_told(loading, serving)
            await self._drain_and_stop(loading)
        finally:
            self._server.should_exit = True
            await serving
            watching.cancel()
            beating.cancel()
            tidying.cancel()

    async def _serve_http(self, loading: asyncio.Future[Runtime]) -> None:
        """Answer on all sockets; on inherited ones not before there is something to answer with."""
        if self._listeners.are_inherited:
            await asyncio.wait({loading})
            if loading.exception() is not None or self._told_to_stop.is_set():
                return
        await self._server.serve(sockets=list(self._listeners.sockets))

    def _heartbeat(self) -> Heartbeat:
        """Watches whatever is loaded."""

        def limits() -> StallLimits:
            """Those of this moment: a reload may bring others."""
            return StallLimits(self._settings.stall_factor, self._settings.stall_floor_s)

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
        self._runtime = runtime
        self._on_ready()
        self._lifecycle.ready(Serving(engine, runtime.control))
        logger.info(
            "ready: %s operating point %s of %d, budget %g ms",
            self._url,
            engine.active_point_id,
            len(engine.table),
            runtime.latency_budget_ms,
        )
        self._notifier.ready(status_of(self._lifecycle.serving))

    # --- reload ---------------------------------------------------------------------------------------------

    async def reload(self) -> bool:
        """Read everything anew, check all of it, then replace what differs; whether that was done.

        On any error one line says why, and everything stays as it was.
        """
        async with self._reloading:
            if self._lifecycle.is_ready:
                self._notifier.reloading()
            complaint = await self._why_not_reloaded()
            if self._lifecycle.is_ready:
                self._notifier.ready(complaint or status_of(self._lifecycle.serving))
            self._metrics.reloaded(complaint is None)
            return complaint is None

    async def _why_not_reloaded(self) -> str | None:
        """Reload; what kept it from happening, if something did."""
        try:
            await self._reload()
        except Exception as error:
            complaint = f"reload refused, everything stays as it was: {error}"
            logger.error("%s", complaint, exc_info=not isinstance(error, DynhatError))
            return complaint
        return None

    async def _reload(self) -> None:
        runtime = self._runtime
        if runtime is None or self._told_to_stop.is_set():
            raise SettingsError("the daemon is loading or stopping: reload it when it is ready")

        def prepare() -> tuple[Settings, KeyRing | None, Runtime | None]:
            settings = self._reread()
            obstacle = restart_needed(self._settings, settings)
            if obstacle is not None:
                raise SettingsError(obstacle)
            _check_paths(settings)
            self._listeners.each(lambda listener: check_exposure(settings, listener))
            check_tls(settings.tls_certificate, settings.tls_key)
            keys = keys_of(settings)
            return settings, keys, runtime.renew(settings)

        settings, keys, renewed = await asyncio.to_thread(prepare)
        # FastAPI remembers the routes of the last hundred applications: no new one for other settings than its own.
        keeps_app = keys == self._keys and answer_alike(settings, self._settings)
        app = self._entrance.app if keeps_app else self._app(settings, keys)
        if renewed is not None:
            await asyncio.to_thread(renewed.take_over_from, runtime)
        self._settings, self._keys, self._entrance.app = settings, keys, app
        configure_logging(settings.log_level, settings.log_format)
        if settings.tls_certificate is not None:
            self._server.renew_certificate(settings.tls_certificate, settings.tls_key)
        if renewed is not None:
            self._runtime = renewed
            self._lifecycle.replace(Serving(renewed.engine, renewed.control))
        if renewed is not None or not keeps_app:
            retiring = asyncio.ensure_future(self._retire(runtime if renewed is not None else None))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        what = "keys and limits" if renewed is None else "keys, limits, table and governor"
        logger.info("reloaded: %s; operating point %s", what, self._lifecycle.active_point_id)

    async def _retire(self, runtime: Runtime | None) -> None:
        """Let an engine that was replaced finish what it was given; then look for what a reload leaves behind.

        Applications and engines refer to themselves: about a megabyte that only the collector finds, and by itself it
        looks seldom. What was loaded at the start is set aside (`startup`), so that looking takes next to no time.
        """
        await asyncio.sleep(HANDOVER_S)
        if runtime is not None:
            await asyncio.to_thread(runtime.engine.stop, self._settings.request_timeout_s)
        del runtime
        gc.collect()
        await asyncio.to_thread(release_free_memory)

    async def _watch_keys(self) -> None:
        """Read the key file anew whenever it is another one."""
        seen = _signature(self._settings.key_file)
        while True:
            await asyncio.sleep(KEY_WATCH_S)
            now = _signature(self._settings.key_file)
            if now == seen:
                continue
            seen = now
            async with self._reloading:
                try:
                    keys = await asyncio.to_thread(keys_of, self._settings)
                except SettingsError as error:
                    logger.error("keys not reloaded, the old ones stay: %s", error)
                    continue
                self._keys, self._entrance.app = keys, self._app(self._settings, keys)
                logger.info("keys reloaded: %d", 0 if keys is None else len(keys.callers))

    # --- the end --------------------------------------------------------------------------------------------

    async def _drain_and_stop(self, loading: asyncio.Future[Runtime]) -> None:
        """Let requests finish, then stop what translates. Health answers "draining" all the while."""
        self._notifier.stopping("draining")
        hurry = asyncio.ensure_future(self._told_to_hurry.wait())
        if self._lifecycle.is_ready and self._settings.drain_grace_s and not self._listeners.are_inherited:
            self._lifecycle.leave()
            logger.info("leaving: serving on for %g s", self._settings.drain_grace_s)
            await _first_of(hurry, timeout_s=self._settings.drain_grace_s)
        deadline_s = time.monotonic() + self._settings.drain_timeout_s
        if self._listeners.are_inherited:
            await self._hand_over(deadline_s)
        self._lifecycle.drain()
        logger.info("draining: %d requests in flight", self._lifecycle.num_in_flight)
        idle = asyncio.ensure_future(self._lifecycle.wait_idle())
        await _first_of(idle, hurry, timeout_s=max(0.0, deadline_s - time.monotonic()))
        if not idle.done():
            logger.warning("giving up on %d requests in flight", self._lifecycle.num_in_flight)
        is_hurried = self._server.force_exit = hurry.done()
        idle.cancel()
        hurry.cancel()
        await asyncio.wait({loading})
        if loading.exception() is None:
            timeout_s = 0.0 if is_hurried else max(SHORTEST_STOP_S, deadline_s - time.monotonic())
            await asyncio.to_thread((self._runtime or loading.result()).stop, timeout_s)
        logger.info("stopped")

    async def _hand_over(self, deadline_s: float) -> None:
        """Accept nothing more, and answer whoever has been accepted; the socket's queue waits for the next daemon."""
        await self._server.stop_accepting(self._listeners.sockets)
        self._lifecycle.hand_over()
        logger.info("handing over the socket: %d requests in flight", self._lifecycle.num_in_flight)
        first_request_s = time.monotonic() + FIRST_REQUEST_S
        while self._server.has_connections and not self._told_to_hurry.is_set():
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

    def _on_hangup(self) -> None:
        """Reload, after the reload before."""
        reloading: asyncio.Future[Any] = asyncio.ensure_future(self.reload())
        self._retiring.add(reloading)
        reloading.add_done_callback(self._retiring.discard)


def _signature(path: Path | None) -> tuple[int, int, int] | None:
    """What of a file is another when its content is; None where there is none."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
