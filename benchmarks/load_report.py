"""What the load benchmark found as figures, checks and notes, and its report. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import Aim, Check, Figure, Result, Summary, percentile
from benchmarks.load_fuzz import Fuzzed
from benchmarks.load_measure import Drained, Effort, Loaded
from benchmarks.report import Environment, environment_lines, section

MOST_HEALTH_MS = 50.0
MOST_GROWTH_FRACTION = 0.02
"""By which resident memory may differ between the first and the last third after the warm-up, and count as flat."""
ALLOWED = frozenset(("200", "429", "503"))
NUM_SHOWN = 5


def of_load(effort: Effort, loaded: Loaded) -> Result:
    """The load's figures."""
    fates, seconds = loaded.fates, loaded.fates["elapsed_s"]
    health_ms = [probe.elapsed_ms for probe in loaded.probes]
    rss_mib = [sample.rss_mib for sample in loaded.memory if sample.at_s >= loaded.warm_up_s]
    figures = [
        Figure("answer 200", "ms", Summary.of(fates["accepted_ms"])),
        *(
            [Figure("answer 429 or 503", "ms", Summary.of(fates["refused_ms"]))]
            if fates["refused_ms"]
            else []
        ),
        Figure("/livez and /readyz", "ms", Summary.of(health_ms), (Aim("p99", MOST_HEALTH_MS),)),
        Figure("resident memory after the warm-up", "MiB", Summary.of(rss_mib)),
    ]
    growth_fraction = loaded.rss_growth_mib / rss_mib[0]
    bad_health = [probe for probe in loaded.probes if probe.status != 200]
    return Result(
        name="load",
        title=f"{effort.num_clients} clients for {effort.seconds:g} s",
        how=(
            f"The daemon may let {effort.queue_limit_requests} requests wait. Each client has a connection of its own "
            "and sends a request as soon as it has the answer to the one before; after a refusal it waits "
            f"{_pause(effort)}. A third of the requests each go to /v1/translate, /translate and /v2/translate, "
            "with sentences of 4 to 33 words and short texts of three. All clients are one process, the asker after "
            "the health another, which opens a connection for every question, 20 times a second. Times run from "
            "sending to the whole answer."
        ),
        figures=tuple(figures),
        checks=(
            Check(f"every answer is 200, 429 or 503: {_counts(fates)}", set(fates["statuses"]) <= ALLOWED),
            _none_lost(fates),
            Check(f"all {len(loaded.probes)} health answers are 200", not bad_health),
            Check(
                f"memory is flat: {loaded.rss_growth_mib:+.1f} MiB from the first third after {loaded.warm_up_s:g} s "
                f"to the last ({growth_fraction:+.1%}, at most {MOST_GROWTH_FRACTION:.0%})",
                growth_fraction <= MOST_GROWTH_FRACTION,
            ),
        ),
        notes=(
            f"Translated: {fates['statuses'].get('200', 0) / seconds:.1f} requests per second; all answers: "
            f"{sum(fates['statuses'].values()) / seconds:.1f} per second.",
            _percentiles("answers 200", fates["accepted_ms"]),
            _percentiles("answers 429 and 503", fates["refused_ms"]),
            _percentiles("health answers", health_ms),
            f"CPU time: the daemon {loaded.server_cpu_s / seconds:.0%} of one CPU, the clients "
            f"{fates['cpu_s'] / seconds:.0%}.",
        ),
    )


def of_drain(effort: Effort, drained: Drained) -> Result:
    """The drain's figures."""
    fates = drained.fates
    return Result(
        name="drain",
        title=f"SIGTERM while {effort.num_clients} clients ask",
        how=(
            f"The same clients against a fresh daemon; SIGTERM after {effort.drain_after_s:g} s. Every client goes on "
            "until nobody accepts its connection. A request is lost if it was sent and no whole answer came."
        ),
        figures=(Figure("from SIGTERM to the end of the process", "s", Summary.of([drained.exit_s])),),
        checks=(
            Check(f"every answer is 200, 429 or 503: {_counts(fates)}", set(fates["statuses"]) <= ALLOWED),
            _none_lost(fates),
            Check(
                f"every translation that the daemon says it answered ({drained.num_answered}) arrived",
                drained.num_answered == fates["statuses"].get("200", 0),
            ),
            Check(
                "it gave up on no request, and no client left",
                not drained.gave_up and not drained.num_abandoned,
            ),
            Check(f"it ends with status {drained.exit_status}", drained.exit_status == 0),
        ),
        notes=(
            f"{fates['num_not_connected']} attempts to connect were turned away at the end, one a client; "
            f"{fates['num_hung_up']} requests were not sent since the connection was closed while it was idle.",
        ),
    )


def of_fuzz(fuzzed: Fuzzed) -> Result:
    """The fuzzing's figures."""
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(fuzzed.statuses.items()))
    return Result(
        name="fuzz",
        title=f"{fuzzed.num_cases} requests made up from the OpenAPI description",
        how=(
            f"schemathesis {fuzzed.schemathesis_version} makes requests up from docs/openapi.json, for all "
            f"{fuzzed.num_operations} operations, half of them within the description and half of them outside it, and "
            "sends them to the daemon. /v1/events never ends by itself and is left out."
        ),
        figures=(Figure("answer", "ms", Summary.of(fuzzed.elapsed_ms)),),
        checks=(
            Check(f"no 5xx but 503 and 504 where they are documented: {counts}", not fuzzed.server_errors),
            Check("every status is documented", not fuzzed.undocumented),
            Check("every answer in JSON is as its schema says", not fuzzed.misshapen),
            Check("the daemon translates afterwards", fuzzed.translates_afterwards),
        ),
        notes=tuple(
            f"- {line}"
            for line in (*fuzzed.server_errors, *fuzzed.undocumented, *fuzzed.misshapen)[: 4 * NUM_SHOWN]
        ),
    )


def as_report(environment: Environment, command: str, results: Sequence[Result]) -> str:
    """The report."""
    parts = [
        f"# Load and abuse, {environment.measured_at[:10]}",
        "\n".join(environment_lines(environment)),
        f"Reproduce with:\n\n    {command}",
        *(section(result) for result in results),
    ]
    return "\n\n".join(parts) + "\n"


def _pause(effort: Effort) -> str:
    if effort.pause_s is None:
        return "as long as Retry-After says, up to a quarter more or less (1 s where there is none)"
    return f"{effort.pause_s:g} s, whatever Retry-After says"


def _none_lost(fates: Mapping[str, Any]) -> Check:
    lost = fates["lost"]
    shown = f": {'; '.join(lost[:NUM_SHOWN])}" if lost else ""
    return Check(f"none of {fates['num_sent']} requests is lost ({len(lost)}{shown})", not lost)


def _counts(fates: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(fates["statuses"].items()))


def _percentiles(what: str, samples: Sequence[float]) -> str:
    if not samples:
        return f"There were no {what}."
    told = ", ".join(f"p{percent:g} {percentile(samples, percent):.1f} ms" for percent in (50, 95, 99, 99.9))
    return f"{what[0].upper()}{what[1:]}: {told}, {max(samples):.1f} ms at most."
