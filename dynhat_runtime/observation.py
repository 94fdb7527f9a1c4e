"""What was measured of a finished batch and of an answered request, as values to learn from. Measures nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One batch of sentences, decoded together on one operating point."""

    monotonic_s: float
    """Monotonic clock when the batch was done."""
    point_id: str
    num_sentences: int
    num_src_tokens: int
    """Of the longest source in the batch."""
    num_tgt_tokens: int
    """Of the longest output in the batch, that is about how many steps the decoder made."""
    beam_size: int
    elapsed_ms: float
    """Encoding and decoding of the whole batch; no waiting in the queue."""
    is_canary: bool = False
    """A sentence of our own, translated to see how fast the device is while nobody asks for anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What one request took besides waiting for others and being decoded: to be read, cut, handed on and answered."""

    monotonic_s: float
    """Monotonic clock when it was answered."""
    elapsed_ms: float
