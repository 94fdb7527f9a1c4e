"""The name of a request in log lines and in its answer: the client's `X-Request-ID` where it can be one, else ours."""

from __future__ import annotations

import re
import uuid

REQUEST_ID_HEADER = "X-Request-ID"

ALLOWED = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
"""What may stand in a log line as it is: nothing that ends a line, and not much of it."""


def choose_request_id(offered: str | None) -> str:
    """The client's name for its request if it is fit to be logged, else a new one that nobody has used."""
    if offered is not None and ALLOWED.fullmatch(offered):
        return offered
    return uuid.uuid4().hex
