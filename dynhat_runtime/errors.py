"""Every exception this package raises on purpose.

    DynhatError                     base: catch this to catch ours and nothing else
    |-- SettingsError               a setting that cannot work (port, path, budget)
    |-- DesignSpaceError            a config, gene or space that contradicts itself or its space
    |-- BundleError                 a bundle file that is missing, truncated, altered or of another version
    |-- CheckpointError             another toolkit's checkpoint that cannot be imported
    |-- UnknownOperatingPointError  an operating point id that the loaded table does not have
    |-- RequestError                a client's request that we cannot serve as asked (HTTP 400)
    |   `-- RequestTooLargeError    it is longer than a request may be (HTTP 413)
    |-- UnauthorizedError           a request without a key that is known (HTTP 401)
    |-- RateLimitedError            a key's requests come faster than it may send them (HTTP 429)
    |-- PromiseError                what a strict request asks for is not expected to be met (HTTP 422)
    |-- EngineError                 the engine cannot take or finish a translation
    |   |-- EngineOverloadedError   the bounded queue is full (HTTP 503 or 429)
    |   |-- DeadlineError           a request that would not be done, or was not, by its deadline (HTTP 504)
    |   `-- EngineStoppedError      the engine is stopping or stopped (HTTP 503)
    |-- NativeUnavailableError      the native decoder is not built, or not for this machine or these sources
    |-- LowMemoryError              there is not enough memory to load or compute
    |-- DaemonUnreachableError      no daemon answers where one was asked, or it is not ready
    |-- MonitorError                a sensor that cannot be read at all
    |-- TraceError                  a recording that cannot be written, read or replayed
    |-- TrainingError               data or recipe that cannot be trained on
    |-- LatencyDataError            a latency dataset or predictor that cannot be used here
    `-- SearchError                 a search that cannot be run or resumed as asked

A message names the value that was wrong and what would be right: it is shown to users as it stands.
`exit_code` is the process exit status when the error ends a command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


LONGEST_FIELD = 160
"""Characters of a field's name that a message shows."""


def first_complaint(error: ValidationError) -> str:
    """The first thing wrong with a file's content, as `field: what is wrong`; `file` where no field is at fault.

    One line, and no long one, whatever the file calls its fields.
    """
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "file"
    return " ".join(f"{field[:LONGEST_FIELD]}: {first['msg']}".split())


class DynhatError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 2


class SettingsError(DynhatError):
    """A setting that cannot work; the message names the setting, its value and the remedy."""


class DesignSpaceError(DynhatError):
    """A config, gene or design space that contradicts itself or the space it should lie in."""


class BundleError(DynhatError):
    """A bundle file that is missing, truncated, altered or written by another format version."""


class CheckpointError(DynhatError):
    """Another toolkit's checkpoint, or what comes with it, that cannot be imported."""


class UnknownOperatingPointError(DynhatError):
    """An operating point id that the loaded table does not have."""


class RequestError(DynhatError):
    """A client's request that cannot be served as asked.

    Attributes:
        field: Name of the request field at fault.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class RequestTooLargeError(RequestError):
    """A request with more characters, texts or bytes than one may have."""


class UnauthorizedError(DynhatError):
    """A request without a key, or with one that is not known.

    Attributes:
        is_missing: There was none.
    """

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class RateLimitedError(DynhatError):
    """A key's requests come faster than it may send them.

    Attributes:
        retry_after_s: When the next one will be taken.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PromiseError(DynhatError):
    """A strict request whose budget or quality no operating point is expected to meet."""


class EngineError(DynhatError):
    """The engine cannot take or finish a translation."""

    exit_code = 1


class EngineOverloadedError(EngineError):
    """The bounded queue is full; try again later.

    Attributes:
        queue: What waits and what may, as a client is told.
        retry_after_s: When to come again.
    """

    def __init__(
        self,
        message: str,
        queue: Mapping[str, int | float | None] | None = None,
        retry_after_s: int = 1,
    ) -> None:
        super().__init__(message)
        self.queue = dict(queue or {})
        self.retry_after_s = retry_after_s


class DeadlineError(EngineError):
    """A request that would not be done by its deadline, or was not."""


class EngineStoppedError(EngineError):
    """The engine is stopping or has stopped."""


class NativeUnavailableError(DynhatError):
    """The native decoder cannot be used; the message says why and names the remedy."""


class LowMemoryError(DynhatError):
    """There is not enough memory to load or compute; unlike a wrong setting it may pass by itself."""

    exit_code = 3


class DaemonUnreachableError(DynhatError):
    """No daemon answers where one was asked, or it is not ready."""

    exit_code = 1


class MonitorError(DynhatError):
    """A sensor that cannot be read at all."""


class TraceError(DynhatError):
    """A recording that cannot be written or read, or belongs to another operating point table."""


class TrainingError(DynhatError):
    """Data or a recipe that cannot be trained on."""


class LatencyDataError(DynhatError):
    """A latency dataset that is broken, or a predictor that is broken or of another device or design space."""


class SearchError(DynhatError):
    """A search that cannot be run or resumed as asked, such as under a latency constraint nothing meets."""
