"""How an operating point keeps and multiplies its matrices. The word, and nothing that computes with it."""

from __future__ import annotations

from typing import Literal, get_args

from dynhat_runtime.errors import SettingsError

Precision = Literal["fp32", "int8"]
"""int8: weights in one byte with a scale per output. Only the native decoder on a CPU has it."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def precision_called(name: str) -> Precision:
    """The precision of that name.

    Raises:
        SettingsError: There is none; the message lists those there are.
    """
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise SettingsError(f"precision {name!r} is unknown: choose one of {', '.join(PRECISIONS)}")
