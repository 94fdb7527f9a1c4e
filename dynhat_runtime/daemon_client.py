"""Ask a running daemon where it stands, and say it readably. Changes nothing there."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dynhat_runtime.errors import DaemonUnreachableError

TIMEOUT_S = 10.0
EXAMPLE = "http://127.0.0.1:5000"

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


def ask_decisions(base_url: str, last: int) -> list[dict[str, Any]]:
    """The newest entries of the daemon's why-log, newest last; raises as `ask_status` does."""
    return list(_ask(base_url, f"/v1/decisions?last={last}", "decisions")["decisions"])


def ask_trace(base_url: str, after: int) -> dict[str, Any]:
    """What the daemon recorded after event number `after`; raises as `ask_status` does."""
    return _ask(base_url, f"/v1/trace?after={after}", "events")


def _ask(base_url: str, path: str, expected: str) -> dict[str, Any]:
    """A GET's answer, which has to have the field `expected`."""
    url = f"{base_url.rstrip('/')}{path}"
    if not url.startswith(("http://", "https://")):
        raise DaemonUnreachableError(
            f"no daemon answers at {base_url} (no http address): start one with 'dynhat serve' or give --url one such "
            f"as {EXAMPLE}"
        )
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310  # http or https, as seen above
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
    for name in ("mode", "policy", "since", "reason"):
        yield f"{name:16} {status[name]}"
    yield f"slow-down        {describe_slow_down(status)}"
    resources = status["resources"]
    if resources is None:
        yield "resources        not read yet"
        return
    yield "resources"
    for label, text in describe_resources(resources):
        yield f"  {label:24} {text}"
    for sensor in sensors_down(resources):
        yield f"sensor down      {sensor}"


def describe_slow_down(status: Mapping[str, Any]) -> str:
    """How fast the device is against the table, and how well that is known."""
    if status["slow_down_factor"] is None:
        return "not known yet"
    text = f"{status['slow_down_factor']:.2f} times the table's latencies (+- {status['slow_down_std']:.0%})"
    if status["handling_ms"]:
        text += f" and {status['handling_ms']:.1f} ms besides decoding"
    error = status["prediction_error_fraction"]
    return text if error is None else f"{text}, predictions off by {error:.0%} (median)"


def describe_resources(resources: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every resource that is known, as a name without its unit and a value with it."""
    for name, value in resources.items():
        if value is not None and name not in ("monotonic_s", "sensors"):
            yield _describe_resource(name, value)


def sensors_down(resources: Mapping[str, Any]) -> list[str]:
    """Every sensor that does not answer, with what it said last."""
    return [
        f"{sensor['name']}: {sensor['error'] or 'no reason given'}"
        for sensor in resources.get("sensors", ())
        if not sensor["is_up"]
    ]


def explain(status: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The latest decision in a few sentences: what runs and since when, why, what a better point lacks, and what
    stands in the way of knowing."""
    active = status["active"]["id"]
    how = "pinned by hand" if status["mode"] == "pinned" else f"chosen by the policy {status['policy']}"
    yield f"{active} has been active since {status['since']}, {how}: {status['reason']}."
    if status["next_better"] is None:
        yield f"No operating point translates better than {active}."
    elif decisions:
        yield _what_lacks(status["next_better"], decisions[-1]["candidates"])
    if status["slow_down_factor"] is not None:
        yield f"Translations take {describe_slow_down(status)}."
    down = [] if status["resources"] is None else sensors_down(status["resources"])
    if down:
        yield f"{len(down)} sensor{'s are' if len(down) > 1 else ' is'} down: {'; '.join(down)}."


def _what_lacks(point_id: str, candidates: Sequence[Mapping[str, Any]]) -> str:
    """What speaks against the next better point."""
    better = next(candidate for candidate in candidates if candidate["point_id"] == point_id)
    figures = (
        f"{better['predicted_ms']:.1f} ms predicted, in time with probability {better['probability_met']:.2f}"
    )
    return f"The next better, {point_id} ({figures}): {better['why_not'] or 'nothing speaks against it'}."


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
