"""Precisions by name."""

from __future__ import annotations

import pytest

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.precision import PRECISIONS, precision_called


def test_by_name() -> None:
    """Every precision has its name; another lists them."""
    assert [precision_called(name) for name in ("fp32", "int8")] == list(PRECISIONS)
    with pytest.raises(SettingsError, match="'fp17' is unknown: choose one of fp32, int8"):
        precision_called("fp17")
