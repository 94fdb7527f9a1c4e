"""The real daemon with faults that files call up: `faulty_daemon.py FOLDER`, settings from environment and file.

FOLDER/hold-loading keeps it loading, FOLDER/stick keeps a translation from ever going on, FOLDER/slow makes each take
three seconds longer, in many steps. Each has effect as long as it exists. A translation that begins leaves the file
`begun` in the service's state folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynhat_runtime import daemon
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.translator import PlannedSentence, SentenceTranslation, Translator
from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.settings import Settings, load_settings

FOLDER = Path(sys.argv[1])
NUM_SLOW_STEPS, SLOW_STEP_S = 30, 0.1


class FaultyTranslator(Translator):
    """Gets stuck, or slow."""

    def translate_planned(
        self,
        sub: SubTransformer,
        planned: Sequence[PlannedSentence],
        options: BeamOptions,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
        **more: Any,
    ) -> list[SentenceTranslation]:
        """Translate, late or never."""
        Path(os.environ["STATE_DIRECTORY"], "begun").touch()
        _while_there("stick")
        for _ in range(NUM_SLOW_STEPS if (FOLDER / "slow").exists() else 0):
            is_cancelled()
            time.sleep(SLOW_STEP_S)
        return super().translate_planned(sub, planned, options, is_cancelled=is_cancelled, **more)


def _while_there(name: str) -> None:
    while (FOLDER / name).exists():
        time.sleep(0.02)


def build(settings: Settings) -> daemon.Runtime:
    """The real runtime, once loading is not held up, with our translator in the place of its own."""
    _while_there("hold-loading")
    runtime = daemon.build_runtime(settings)
    assert isinstance(runtime.engine, TranslationEngine)
    translator = runtime.engine._translator
    runtime.engine._translator = FaultyTranslator(translator.tokenizer, translator.limits)
    return runtime


if __name__ == "__main__":
    sys.exit(daemon.run(load_settings(), build))
