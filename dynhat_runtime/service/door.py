"""The door: lets in whoever has a key, as often as the key allows. Where no keys are asked for, anybody.

Keeps a token bucket per key. Belongs to the event loop's thread: nothing here is locked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dynhat_runtime.errors import RateLimitedError, UnauthorizedError
from dynhat_runtime.service.keys import ANYBODY, Caller, KeyRing

HOW = "send it as 'Authorization: Bearer KEY'"
SCHEMES = ("bearer", "deepl-auth-key")


@dataclass(slots=True)
class TokenBucket:
    """A token per request; tokens come back at a steady rate, up to one minute's worth.

    Attributes:
        rate_per_s: How fast they come back.
        capacity: How many there can be.
        tokens: How many there were at `updated_s`.
    """

    rate_per_s: float
    capacity: float
    tokens: float
    updated_s: float

    @classmethod
    def full(cls, rate_per_minute: float, now_s: float) -> TokenBucket:
        """A bucket nobody has drawn from."""
        capacity = max(rate_per_minute, 1.0)
        return cls(rate_per_minute / 60, capacity, capacity, now_s)

    def take(self, now_s: float) -> float:
        """Take a token; 0, or the time in s until there will be one, when nothing was taken."""
        self.tokens = min(self.capacity, self.tokens + (now_s - self.updated_s) * self.rate_per_s)
        self.updated_s = now_s
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate_per_s
        self.tokens -= 1
        return 0.0


class Door:
    """Stands before every route that is not open to all."""

    def __init__(
        self,
        keys: KeyRing | None = None,
        rate_limit_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A door.

        Args:
            keys: Who may enter; None lets everybody in.
            rate_limit_per_minute: Translations per key where the key has no limit of its own; without keys of all
                callers together. None sets none.
            clock: Seconds that only rise.
        """
        self.asks_for_keys = keys is not None
        self._keys = keys
        self._rate_limit_per_minute = rate_limit_per_minute
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def check(self, key: str | None) -> Caller:
        """Who it is.

        Raises:
            UnauthorizedError: A key is needed, and this is none.
        """
        if self._keys is None:
            return ANYBODY
        if not key:
            raise UnauthorizedError(f"an API key is needed: {HOW}", is_missing=True)
        caller = self._keys.find(key)
        if caller is None:
            raise UnauthorizedError(f"this API key is not known: {HOW}, or ask for another one")
        return caller

    def admit(self, key: str | None) -> Caller:
        """Let one translation in.

        Raises:
            UnauthorizedError: As `check` has it.
            RateLimitedError: The key has sent too many of late.
        """
        caller = self.check(key)
        limit = caller.rate_limit_per_minute or self._rate_limit_per_minute
        if limit is None:
            return caller
        now_s = self._clock()
        bucket = self._buckets.setdefault(caller.name, TokenBucket.full(limit, now_s))
        wait_s = bucket.take(now_s)
        if wait_s:
            retry_s = max(1, math.ceil(wait_s))
            raise RateLimitedError(
                f"Slowdown: {limit:g} requests per minute are the limit of {caller.name}: "
                f"try again in {retry_s} s",
                retry_s,
            )
        return caller


def key_in(headers: Mapping[str, str]) -> str | None:
    """The key that a request's headers carry: `Authorization: Bearer KEY` or `DeepL-Auth-Key KEY`, or `X-API-Key`."""
    scheme, _, key = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() in SCHEMES and key.strip():
        return key.strip()
    return headers.get("x-api-key") or None
