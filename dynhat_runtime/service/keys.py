"""API keys: who may ask, and how often. Reads the key file; keeps hashes of the keys and never a key itself.

    [keys.kitchen-display]
    key = "a long random string"

    [keys.night-jobs]
    sha256 = "the key's SHA-256 in hexadecimal digits, instead of the key"
    priority = "batch"
    rate_limit_per_minute = 60

Decides nothing about a request beyond whose key it carries.
"""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dynhat_runtime.errors import SettingsError, first_complaint
from dynhat_runtime.queue_load import Priority

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHORTEST_KEY = 16
"""Characters: what is shorter can be guessed."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""What a key may be called: log lines name it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks."""

    name: str
    """The name of its key."""
    priority: Priority = "interactive"
    """What its requests are where they do not say."""
    rate_limit_per_minute: float | None = None
    """Of its own; None takes everybody's."""


ANYBODY = Caller("anybody")
"""All who ask where no keys are asked for."""


class _Key(BaseModel):
    """One table of the key file."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = Field(None, min_length=SHORTEST_KEY)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    priority: Priority = "interactive"
    rate_limit_per_minute: float | None = Field(None, gt=0, le=1_000_000)

    @model_validator(mode="after")
    def _either(self) -> _Key:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key."""
        return digest_of(self.key) if self.key is not None else bytes.fromhex(str(self.sha256))


class _KeyFile(BaseModel):
    """The key file."""

    model_config = ConfigDict(extra="forbid")

    keys: dict[Annotated[str, Field(pattern=NAME)], _Key] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys there are, as hashes."""

    callers: Sequence[tuple[bytes, Caller]]

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """The keys in a file.

        Raises:
            SettingsError: It cannot be read or holds something else, and what; never a key.
        """
        try:
            fields = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"key file {path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            # The parser's message could show a part of a key.
            raise SettingsError(
                f'key file {path}: not TOML: write [keys.NAME] and below it key = "..."'
            ) from None
        return cls.of(fields, str(path))

    @classmethod
    def of(cls, fields: Mapping[str, object], origin: str) -> KeyRing:
        """The keys of a parsed file; raises as `load` does."""
        try:
            file = _KeyFile.model_validate(fields)
        except ValidationError as error:
            complaint = " ".join(first_complaint(error).split())  # a name may hold a line break
            raise SettingsError(f"key file {origin}: {complaint}") from None
        return cls(
            [
                (key.digest, Caller(name, key.priority, key.rate_limit_per_minute))
                for name, key in file.keys.items()
            ]
        )

    def find(self, key: str) -> Caller | None:
        """Whose key it is. Takes the same time whatever the key: every hash is compared, each in constant time."""
        digest = digest_of(key)
        found: Caller | None = None
        for known, caller in self.callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def digest_of(key: str) -> bytes:
    """A key's SHA-256: keys are long and random, so that a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
