"""Requests made up from the OpenAPI description, within it and outside it, and what the daemon answers.

Needs schemathesis and hypothesis (extra `[dev]`). Starts no daemon and formats nothing.
"""

from __future__ import annotations

import importlib
import json
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTION = ROOT / "docs/openapi.json"
ENDLESS = ("/v1/events",)
"""Answers that end when their client goes."""
WITHOUT_INPUT_CASES = 5
"""Requests to an operation that has neither parameters nor a body."""
ANSWER_S = 90.0
SEED = 20261126
MOST_ROUNDS = 10


@dataclass(slots=True)
class Fuzzed:
    """What came of it."""

    schemathesis_version: str
    num_operations: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    elapsed_ms: list[float] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    """A 5xx that is not documented for the operation, or is not 503 or 504; or no answer at all."""
    undocumented: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    translates_afterwards: bool = False

    @property
    def num_cases(self) -> int:
        """Requests that were sent."""
        return len(self.elapsed_ms)


def fuzz(url: str, num_cases: int, description: Path = DESCRIPTION) -> Fuzzed:
    """Send `num_cases` requests or a few more, the same ones every time.

    Args:
        url: Where the daemon listens.
        num_cases: Shared evenly among the operations that take input.
        description: The OpenAPI document.

    Raises:
        BenchmarkError: schemathesis is not installed.
    """
    try:
        schemathesis = importlib.import_module("schemathesis")
    except ImportError as error:
        raise BenchmarkError(
            f"schemathesis is needed to make requests up ({error}): pip install '.[dev]'"
        ) from error
    import requests

    schema = schemathesis.openapi.from_dict(json.loads(description.read_text(encoding="utf-8")))
    operations = [result.ok() for result in schema.get_all_operations()]
    operations = [operation for operation in operations if operation.path not in ENDLESS]
    taking_input = [operation for operation in operations if _takes_input(operation)]
    rest = WITHOUT_INPUT_CASES * (len(operations) - len(taking_input))
    share = max(2, -(-(num_cases - rest) // len(taking_input)))
    found = Fuzzed(schemathesis.__version__, len(operations))
    with requests.Session() as session:
        for operation in operations:
            num = share if operation in taking_input else WITHOUT_INPUT_CASES
            _fuzz_one(operation, num, SEED, url, session, found)
        # Some operations have no more different requests than so many: those with a body make up for it.
        with_body = [operation for operation in operations if operation.body]
        for number in range(1, MOST_ROUNDS):
            missing = num_cases - found.num_cases
            if missing <= 0:
                break
            for operation in with_body:
                num = max(2, -(-missing // len(with_body)))
                _fuzz_one(operation, num, SEED + number, url, session, found)
    found.translates_afterwards = _translates(url)
    return found


def _takes_input(operation: Any) -> bool:
    """Whether requests to it can differ."""
    return bool(operation.body) or any(True for _ in operation.iter_parameters())


def _fuzz_one(
    operation: Any, num_cases: int, seed_number: int, url: str, session: Any, found: Fuzzed
) -> None:
    """Half of the cases as described, half of them not, where that is possible."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from schemathesis import GenerationMode

    modes = [GenerationMode.POSITIVE] + ([GenerationMode.NEGATIVE] if _takes_input(operation) else [])
    for mode in modes:
        num = num_cases // len(modes)

        @seed(seed_number)
        @settings(
            max_examples=num,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send_all(case: Any) -> None:
            _send(case, url, session, found)

        send_all()


def _send(case: Any, url: str, session: Any, found: Fuzzed) -> None:
    """Send one request and note what is wrong with its answer. Every second one asks for languages that are served."""
    import requests
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    if found.num_cases % 2 == 0 and isinstance(case.body, dict):
        served = {"source": "en", "target": "de", "target_lang": "DE", "source_lang": "EN"}
        case.body.update({name: value for name, value in served.items() if name in case.body})
    what = f"{case.method} {case.path}"
    began_s = time.monotonic()
    try:
        response = case.call(base_url=url, session=session, timeout=ANSWER_S)
    except requests.RequestException as error:
        found.elapsed_ms.append((time.monotonic() - began_s) * 1e3)
        found.server_errors.append(f"{what}: no answer ({error!r})")
        return
    found.elapsed_ms.append((time.monotonic() - began_s) * 1e3)
    status = response.status_code
    found.statuses[status] += 1
    documented = {str(each) for each in case.operation.definition.raw["responses"]}
    if status >= 500 and not (status in (503, 504) and str(status) in documented):
        found.server_errors.append(f"{what}: {status} {response.content[:200]!r} to {case.body!r:.200}")
    elif str(status) not in documented:
        found.undocumented.append(f"{what}: {status} {response.content[:200]!r} to {case.body!r:.200}")
    else:
        try:
            case.validate_response(response, checks=[response_schema_conformance, content_type_conformance])
        except FailureGroup as failures:
            found.misshapen += [f"{what}: {status} {each!s:.300}" for each in failures.exceptions]


def _translates(url: str) -> bool:
    """Whether a plain sentence is still translated."""
    body = json.dumps({"q": "Good morning.", "source": "en", "target": "de"}).encode()
    request = urllib.request.Request(f"{url}/translate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return bool(json.load(answer)["translatedText"])
