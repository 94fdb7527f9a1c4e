"""The real daemon around a fake engine, as a process: `fake_daemon.py FOLDER SETTINGS_JSON`.

Loading ends when FOLDER/load exists, translations when FOLDER/go does; FOLDER/broken makes loading fail.
FOLDER/submitted appears with the first translation; what is stopped is noted in FOLDER/stopped.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dynhat_runtime import daemon
from dynhat_runtime.errors import BundleError, DynhatError
from dynhat_runtime.settings import Settings, load_settings
from tests.service_fakes import FakeControl, FakeEngine, FakeTranslation

FOLDER = Path(sys.argv[1])


class NotingEngine(FakeEngine):
    """Notes that it was asked and that it was stopped."""

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
    engine = NotingEngine()
    engine.go.clear()

    def release() -> None:
        _wait_for("go")
        engine.go.set()

    threading.Thread(target=release, daemon=True).start()
    return daemon.Runtime(engine, NotingControl(engine), settings.latency_budget_ms or 35)


if __name__ == "__main__":
    try:
        sys.exit(daemon.run(load_settings(command_line=json.loads(sys.argv[2])), build))
    except DynhatError as error:
        print(f"dynhat: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
