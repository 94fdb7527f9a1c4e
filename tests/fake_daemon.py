"""The real daemon around a fake engine, as a process: `fake_daemon.py FOLDER SETTINGS_JSON`.

Loading ends when FOLDER/load exists, translations when FOLDER/go does; FOLDER/broken makes loading fail.
FOLDER/submitted appears with the first translation; what is stopped is noted in FOLDER/stopped. Settings are also read
from FOLDER/dynhat.toml, at start and at each reload; another budget makes another runtime, and while
FOLDER/bad_table exists none can be made. While FOLDER/overloaded exists, translations are refused: the queue is full.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dynhat_runtime import daemon
from dynhat_runtime.errors import BundleError, DynhatError, EngineOverloadedError
from dynhat_runtime.settings import Settings, load_settings
from tests.service_fakes import FakeControl, FakeEngine, FakeTranslation, make_table

FOLDER = Path(sys.argv[1])


class NotingEngine(FakeEngine):
    """Notes that it was asked and that it was stopped; its queue is full while FOLDER/overloaded exists."""

    def submit(self, *texts: Any, **options: Any) -> Any:
        """Queue texts, unless the queue is full."""
        if (FOLDER / "overloaded").exists():
            raise EngineOverloadedError("the queue is full")
        return super().submit(*texts, **options)

    def _translate(self, texts: list[str], point_id: str, *more: Any) -> list[FakeTranslation]:
        (FOLDER / "submitted").touch()
        return super()._translate(texts, point_id, *more)

    def stop(self, timeout_s: float) -> None:
        """Note it."""
        super().stop(timeout_s)
        _note("engine")


class NotingControl(FakeControl):
    """Notes that it was stopped."""

    def stop(self) -> None:
        """Note it."""
        super().stop()
        _note("control")


def _note(name: str) -> None:
    with (FOLDER / "stopped").open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")


def _wait_for(name: str) -> None:
    while not (FOLDER / name).exists():
        time.sleep(0.01)


def build(settings: Settings) -> daemon.Runtime:
    """A runtime that is held up by files."""
    _wait_for("load")
    if (FOLDER / "broken").exists():
        raise BundleError("weights.safetensors: truncated: fetch it again")
    return _runtime(settings)


def _runtime(settings: Settings) -> daemon.Runtime:
    """A runtime whose points are as many as its budget has tens of milliseconds."""
    budget_ms = settings.latency_budget_ms or 35
    engine = NotingEngine(make_table(int(budget_ms) // 10))
    engine.go.clear()

    def release() -> None:
        _wait_for("go")
        engine.go.set()

    def renew(new: Settings) -> daemon.Runtime | None:
        if (FOLDER / "bad_table").exists():
            raise BundleError("table.json: was measured on other weights: measure it again")
        return None if new.latency_budget_ms == settings.latency_budget_ms else _runtime(new)

    threading.Thread(target=release, daemon=True).start()
    return daemon.Runtime(engine, NotingControl(engine), budget_ms, renew=renew)


def read_settings() -> Settings:
    """From the file, if there is one, and the command line."""
    config = FOLDER / "dynhat.toml"
    return load_settings(config if config.exists() else None, json.loads(sys.argv[2]))


if __name__ == "__main__":
    try:
        heard = (FOLDER / "heard-ready").touch
        sys.exit(daemon.run(read_settings(), build, read_settings, on_ready=heard))
    except DynhatError as error:
        print(f"dynhat: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
