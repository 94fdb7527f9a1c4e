"""Tests of dynhat_runtime.terms: which settings make another application."""

from __future__ import annotations

import pytest

from dynhat_runtime.settings import Settings
from dynhat_runtime.terms import answer_alike

ITS_OWN = {
    "char_limit": 17,
    "batch_limit": 3,
    "request_timeout_s": 7.0,
    "log_texts": True,
    "rate_limit_per_minute": 5.0,
    "overload_status": 429,
    "cors_origins": ("https://here.example",),
    "url_prefix": "/below",
    "metrics": False,
    "metrics_token": "secret",
}


@pytest.mark.parametrize("name", ITS_OWN)
def test_limits_and_terms_make_another_application(name: str) -> None:
    """Each by itself."""
    other = Settings().model_copy(update={name: ITS_OWN[name]})
    assert getattr(other, name) != getattr(Settings(), name)
    assert not answer_alike(Settings(), other)
    assert answer_alike(other, other.model_copy())


def test_other_settings_do_not() -> None:
    """The governor's, for one."""
    assert answer_alike(Settings(), Settings().model_copy(update={"latency_budget_ms": 61.0}))
