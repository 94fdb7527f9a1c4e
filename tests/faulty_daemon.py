"""The real daemon with faults that files call up: `faulty_daemon.py FOLDER`, settings from environment and file.

FOLDER/hold-loading keeps it loading, FOLDER/stick keeps a translation from ever going on, FOLDER/slow makes each take
a second and a half longer. Each has effect as long as it exists.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynhat_runtime import daemon, engine
from dynhat_runtime.decoding.beam_search import BeamOptions
from dynhat_runtime.decoding.translator import SentenceTranslation, Translator
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.settings import Settings, load_settings

FOLDER = Path(sys.argv[1])
SLOW_S = 1.5


class FaultyTranslator(Translator):
    """Gets stuck, or slow."""

    def translate(
        self,
        sub: SubTransformer,
        sentences: Sequence[str],
        options: BeamOptions,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> list[SentenceTranslation]:
        """Translate, late or never."""
        _while_there("stick")
        if (FOLDER / "slow").exists():
            time.sleep(SLOW_S)
        return super().translate(sub, sentences, options, is_cancelled=is_cancelled)


def _while_there(name: str) -> None:
    while (FOLDER / name).exists():
        time.sleep(0.02)


def build(settings: Settings) -> daemon.Runtime:
    """The real runtime, once loading is not held up."""
    _while_there("hold-loading")
    return daemon.build_runtime(settings)


if __name__ == "__main__":
    engine.Translator = FaultyTranslator  # type: ignore[misc]
    sys.exit(daemon.run(load_settings(), build))
