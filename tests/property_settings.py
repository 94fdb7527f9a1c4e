"""How properties are tried: the same examples every time, and no word about how long one takes."""

from __future__ import annotations

from hypothesis import settings

PROPERTY = settings(derandomize=True, deadline=None, database=None, max_examples=150)
