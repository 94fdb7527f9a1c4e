"""Ask a running daemon where it stands, and say it readably. Changes nothing there."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from dynhat_runtime.errors import DaemonUnreachableError

TIMEOUT_S = 10.0

UNITS = (
    # unit at the end of a resource's name, factor, how people say it
    ("_celsius", 1.0, "°C"),
    ("_mib", 1.0, "MiB"),
    ("_hz", 1e-6, "MHz"),
    ("_fraction", 100.0, "%"),
)


def ask_status(base_url: str) -> dict[str, Any]:
    """The daemon's answer to GET /v1/operating-point.

    Raises:
        DaemonUnreachableError: Nothing, or something else, answers there; or it is not ready.
    """
    return _ask(base_url, "/v1/operating-point", "active")


def ask_trace(base_url: str, after: int) -> dict[str, Any]:
    """What the daemon recorded after event number `after`; raises as `ask_status` does."""
    return _ask(base_url, f"/v1/trace?after={after}", "events")


def _ask(base_url: str, path: str, expected: str) -> dict[str, Any]:
    """A GET's answer, which has to have the field `expected`."""
    url = f"{base_url.rstrip('/')}{path}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            raise DaemonUnreachableError(f"the daemon at {base_url} says: {_error_text(error)}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DaemonUnreachableError(
            f"no daemon answers at {base_url} ({reason}): start one with 'dynhat serve' or give --url"
        ) from None
    if not isinstance(answer, dict) or expected not in answer:
        raise DaemonUnreachableError(f"what answers at {base_url} is no dynhat daemon: give --url")
    return answer


def describe_status(status: Mapping[str, Any]) -> Iterator[str]:
    """`ask_status`'s answer in lines."""
    active = status["active"]
    yield f"operating point  {active['id']} ({active['latency_ms']:.4g} ms measured)"
    for name in ("mode", "since", "reason"):
        yield f"{name:16} {status[name]}"
    resources = status["resources"]
    if resources is None:
        yield "resources        not read yet"
        return
    yield "resources"
    for name, value in resources.items():
        if value is not None and name != "monotonic_s":
            label, text = _describe_resource(name, value)
            yield f"  {label:24} {text}"


def _describe_resource(name: str, value: Any) -> tuple[str, str]:
    """A resource's name without its unit, and its value with it."""
    for suffix, factor, unit in UNITS:
        if name.endswith(suffix) and isinstance(value, int | float):
            return name.removesuffix(suffix), f"{value * factor:.5g} {unit}"
    if isinstance(value, list):
        return name, ", ".join(map(str, value))
    return name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _error_text(error: urllib.error.HTTPError) -> str:
    """What the daemon gave as its reason, or the bare status."""
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
