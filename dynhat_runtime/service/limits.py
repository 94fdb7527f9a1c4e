"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BYTES_PER_CHAR = 12
"""An emoji takes that many, as JSON escapes of a surrogate pair or percent-encoded."""
OTHER_BYTES = 16 * 1024
"""For the fields beside `q`, which clients may add freely."""
BYTES_PER_TEXT = 16
"""For the punctuation between texts."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on one request; the defaults are those of the settings."""

    char_limit: int = 5000
    """Characters, all texts together."""
    batch_limit: int = 128
    """Texts."""
    timeout_s: float = 60
    """Time for the body to arrive, and again for the translation."""
    log_texts: bool = False
    """Whether log lines show what was translated."""

    @property
    def max_body_bytes(self) -> int:
        """Size above which no body can be within the other limits."""
        return MAX_BYTES_PER_CHAR * self.char_limit + BYTES_PER_TEXT * self.batch_limit + OTHER_BYTES
