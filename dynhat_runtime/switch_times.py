"""How long it takes to change the model: the paper's Table III, both sides measured on this device.

Static: another model's weights are read from disk, in this process (the best case) or in a new one. Dynamic: the
engine's active operating point is another. Each side then translates one sentence. They take turns, so that a
disturbance hits both alike.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.errors import EngineError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.operating_point import OperatingPointTable

SENTENCE = "The old man told the children a story about the sea."
PATIENCE_S = 120.0
NUM_PROCESS_STARTS = 5


@dataclass(frozen=True, slots=True)
class SwitchTimes:
    """Milliseconds of every change of the model.

    Attributes:
        dynamic_switch_ms: Until the other operating point is active.
        dynamic_first_ms: Until its first translation is there.
        static_load_ms: Until the other model is loaded in this process, its file being in the page cache.
        static_first_ms: Until its first translation is there.
        static_process_ms: Until a new process with the other model has translated.
        weights_mib: What the static side reads.
    """

    dynamic_switch_ms: tuple[float, ...]
    dynamic_first_ms: tuple[float, ...]
    static_load_ms: tuple[float, ...]
    static_first_ms: tuple[float, ...]
    static_process_ms: tuple[float, ...]
    weights_mib: float


def measure_switch_times(
    bundle: Bundle, table: OperatingPointTable, num_switches: int, console: Console
) -> SwitchTimes:
    """Change from point to point of `table`, round and round, on both sides.

    Raises:
        DynhatError: The bundle cannot be used, or a translation failed.
    """
    beam_size = table.device.beam_size
    engine = TranslationEngine.load(bundle, table, beam_size=beam_size)
    dynamic: list[tuple[float, float]] = []
    static: list[tuple[float, float]] = []
    engine.start()
    try:
        _translate(engine)
        shown = track(range(num_switches), "switching", console=console, disable=not console.is_terminal)
        for number in shown:
            point_id = table.points[number % len(table)].id
            dynamic.append(_switch(engine, point_id))
            static.append(_load_another(bundle, table, point_id))
    finally:
        engine.stop(PATIENCE_S)
    processes = [
        _new_process(bundle, table.points[number % len(table)].id, beam_size)
        for number in range(NUM_PROCESS_STARTS)
    ]
    dynamic_switch_ms, dynamic_first_ms = zip(*dynamic, strict=True)
    static_load_ms, static_first_ms = zip(*static, strict=True)
    return SwitchTimes(
        dynamic_switch_ms=dynamic_switch_ms,
        dynamic_first_ms=dynamic_first_ms,
        static_load_ms=static_load_ms,
        static_first_ms=static_first_ms,
        static_process_ms=tuple(processes),
        weights_mib=sum(file.stat().st_size for file in bundle.path.glob("*.safetensors")) / 2**20,
    )


def _translate(engine: TranslationEngine) -> None:
    engine.submit([SENTENCE]).result(PATIENCE_S)


def _switch(engine: TranslationEngine, point_id: str) -> tuple[float, float]:
    """Milliseconds until `point_id` is active, and until its first translation."""
    began_s = time.perf_counter()
    engine.switch_to(point_id)
    active_s = time.perf_counter()
    _translate(engine)
    return (active_s - began_s) * 1e3, (time.perf_counter() - began_s) * 1e3


def _load_another(bundle: Bundle, table: OperatingPointTable, point_id: str) -> tuple[float, float]:
    """Milliseconds until a server with only that model is loaded, and until its first translation."""
    only = table.model_copy(update={"points": (table[point_id],)})
    began_s = time.perf_counter()
    engine = TranslationEngine.load(Bundle.open(bundle.path), only, beam_size=table.device.beam_size)
    engine.start()
    loaded_s = time.perf_counter()
    try:
        _translate(engine)
        return (loaded_s - began_s) * 1e3, (time.perf_counter() - began_s) * 1e3
    finally:
        engine.stop(PATIENCE_S)


def _new_process(bundle: Bundle, point_id: str, beam_size: int) -> float:
    """Milliseconds until a new process with that model has translated one sentence and ended.

    Raises:
        EngineError: It failed.
    """
    command = [sys.executable, "-m", "dynhat_runtime", "translate", "--bundle", str(bundle.path)]
    began_s = time.perf_counter()
    done = subprocess.run(  # noqa: S603  # this Python and our own command, no shell
        [*command, "--point", point_id, "--beam", str(beam_size)],
        input=SENTENCE,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise EngineError(f"'dynhat translate --point {point_id}' failed: {done.stderr.strip()}")
    return (time.perf_counter() - began_s) * 1e3
