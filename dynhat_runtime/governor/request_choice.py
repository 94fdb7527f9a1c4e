"""An operating point for one request alone: what a request may wish for, and what it gets. Acts on nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestWish:
    """What one request asks for. With nothing asked for, it gets the active operating point."""

    num_src_tokens: tuple[int, ...]
    """Length of every sentence to be translated; they are decoded together."""
    num_sentences_ahead: int = 0
    """Sentences of others that wait before these."""
    latency_budget_ms: float | None = None
    """From submission to answer; None asks for no other point than the active one."""
    min_quality: float | None = None
    """Lowest BLEU, as the table states it, that will do."""
    point_id: str | None = None
    """This point and no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChoice:
    """The operating point a request is translated on."""

    point_id: str
    predicted_ms: float
    """From submission to answer."""
    is_met: bool
    """Budget and quality are expected to be met; True when nothing was asked for."""
    reason: str
    """One sentence with numbers, for people."""
