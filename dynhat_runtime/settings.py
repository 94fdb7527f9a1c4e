"""Settings of the daemon: every one has a meaning, a unit in its name, bounds and a default.

Precedence: command line > environment (DYNHAT_*) > LibreTranslate's variables (LT_*, where they are asked for) >
TOML file > default. Opens nothing the settings name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.libretranslate_variables import settings_from_libretranslate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "DYNHAT_"
CONFIG_VARIABLE = "DYNHAT_CONFIG"
"""Names the TOML file when the command line does not."""

SECRETS = frozenset({"metrics_token"})
"""Settings that are shown to nobody."""

NEEDS_RESTART = frozenset(
    {
        "host",
        "port",
        "bundle",
        "monitor",
        "libretranslate_env",
        "tls_certificate",
        "tls_key",
        "tracing_endpoint",
    }
)
"""Settings that a reload cannot change."""

Milliseconds = Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


def _as_list(value: object) -> object:
    """A list as variables and command lines have it: with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _as_number(value: object) -> object:
    """A number as variables have it."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)]


class Settings(BaseSettings):
    """Everything an operator can choose. Make one with `load_settings`."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_ignore_empty=True
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(5000, ge=0, le=65535, description="TCP port to listen on, 0 for any free one")
    bundle: Path | None = Field(None, description="bundle folder, without it the shipped one")
    table: Path | None = Field(
        None, description="operating point table file, without it the bundle's best match for this device"
    )
    latency_budget_ms: Milliseconds | None = Field(
        None, description="time one sentence may take, in ms, without it the table's default"
    )
    busy_neighbours: int = Field(
        1, ge=0, le=64, description="busy processes beside the daemon that the governor plans for"
    )
    monitor: Literal["auto", "host", "jetson", "nvml"] = Field(
        "auto", description="what is sensed beside the host: auto looks, host nothing, jetson or nvml that"
    )
    policy: Literal["fixed", "ladder", "predictive", "energy"] = Field(
        "predictive", description="how the operating point is chosen: fixed, ladder, predictive or energy"
    )
    confidence: float = Field(
        0.95, ge=0.5, le=0.999, description="probability with which a point has to meet the budget"
    )
    reference_tokens: int | None = Field(
        None,
        ge=1,
        le=512,
        description="length in tokens of the sentence that the budget is for, without it the table's",
    )
    dwell_s: float = Field(0.5, ge=0, le=3600, description="time a point stays before a step up, in s")
    max_switches_per_minute: int = Field(
        6, ge=1, le=600, description="steps up in any 60 s; steps down are not held back"
    )
    min_quality: float | None = Field(
        None, gt=0, le=100, description="lowest BLEU that will do for the policy energy, without it any"
    )
    temperature_limit_celsius: float | None = Field(
        None,
        gt=0,
        le=150,
        description="temperature at which faster points take over, without it none, in degrees",
    )
    cooling_limit_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cooling device's state at which faster points take over, without it none",
    )
    power_limit_mw: float | None = Field(
        None,
        gt=0,
        le=10_000_000,
        description="power of the board at which faster points take over, in mW, without it none",
    )
    memory_floor_mib: float | None = Field(
        None,
        gt=0,
        le=16_777_216,
        description="available memory below which no step up is taken, in MiB, without it none",
    )
    battery_saver_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="charge below which the policy energy takes over on battery, without it none",
    )
    key_file: Path | None = Field(
        None, description="TOML file of API keys, without it nobody is asked for one"
    )
    allow_unauthenticated: bool = Field(
        False, description="listen beyond loopback although nobody is asked for a key"
    )
    rate_limit_per_minute: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="translations per minute and key, without keys of all callers together, without it any",
    )
    cors_origins: Names = Field(
        (), description="origins whose web pages may call, with commas, * for any; none without it"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain to serve HTTPS with, without it HTTP"
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key")
    url_prefix: str = Field(
        "",
        pattern="^(/[A-Za-z0-9._~-]+)*$",
        description="path that all paths stand below, such as /translate",
    )
    load_only: Names = Field(
        (), description="codes of languages that may be served, with commas; any without it"
    )
    beam_size: int = Field(4, ge=1, le=16, description="hypotheses kept per sentence")
    char_limit: int = Field(
        5000, ge=1, le=1_000_000, description="characters per request, all texts together"
    )
    batch_limit: int = Field(128, ge=1, le=4096, description="texts per request")
    queue_limit_requests: int = Field(256, ge=1, le=65536, description="requests that may wait")
    queue_limit_sentences: int = Field(512, ge=1, le=65536, description="sentences that may wait")
    queue_limit_tokens: int = Field(16384, ge=1, le=4_194_304, description="source tokens that may wait")
    overload_status: Annotated[Literal[503, 429], BeforeValidator(_as_number)] = Field(
        503, description="status of a full queue on our own paths: 503 or 429"
    )
    control_interval_s: float = Field(
        0.25, ge=0.01, le=60, description="time between two governor decisions, in s"
    )
    request_timeout_s: float = Field(60, gt=0, le=3600, description="time one request may take, in s")
    drain_grace_s: float = Field(
        0, ge=0, le=600, description="time to serve on at shutdown, not ready any more, before draining, in s"
    )
    drain_timeout_s: float = Field(
        30, ge=0, le=3600, description="time requests get to finish at shutdown, in s"
    )
    stall_factor: float = Field(
        10, ge=2, le=1000, description="times its predicted latency that a batch may stand still"
    )
    stall_floor_s: float = Field(
        10, ge=0.1, le=3600, description="time that a batch may stand still at least, in s"
    )
    metrics: bool = Field(True, description="whether GET /metrics answers")
    metrics_token: str | None = Field(
        None, min_length=8, description="what GET /metrics has to be asked with, without it nothing"
    )
    tracing_endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="OTLP/HTTP address that spans are sent to, without it none (extra otel)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line logged"
    )
    log_format: Literal["console", "json"] = Field("console", description="how log lines look")
    log_texts: bool = Field(False, description="whether log lines show what was translated")
    libretranslate_env: bool = Field(
        False, description="whether LibreTranslate's variables (LT_HOST, LT_PORT ...) are read"
    )


@dataclass(frozen=True, slots=True)
class SettingsReading:
    """Settings and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Of those that are not defaults."""

    def origin(self, name: str) -> str:
        """Where a setting came from, in words."""
        return self.origins.get(name, "default")


def load_settings(config: Path | None = None, command_line: Mapping[str, Any] | None = None) -> Settings:
    """Settings from all sources.

    Args:
        config: TOML file; without it the one that DYNHAT_CONFIG names, if any.
        command_line: Settings given there; None as a value means not given.

    Raises:
        SettingsError: One line naming the setting, where it came from, its value and what would do.
    """
    return read_settings(config, command_line).settings


def read_settings(
    config: Path | None = None, command_line: Mapping[str, Any] | None = None
) -> SettingsReading:
    """Settings from all sources, with their origins; as `load_settings` otherwise."""
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    sources: list[tuple[str, Mapping[str, Any]]] = [
        (f"in {config}", {} if config is None else _read_toml(config)),
        ("in the environment", EnvSettingsSource(Settings)()),
        ("on the command line", {k: v for k, v in (command_line or {}).items() if v is not None}),
    ]
    if _last_of(sources, "libretranslate_env"):
        sources.insert(1, ("in LibreTranslate's variables", settings_from_libretranslate(os.environ)))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in sources:
        merged.update(values)
        origins.update(dict.fromkeys(values, origin))
    try:
        return SettingsReading(Settings(**merged), origins)
    except ValidationError as error:
        raise SettingsError(_first_complaint(error, origins)) from None


def _last_of(sources: list[tuple[str, Mapping[str, Any]]], name: str) -> bool:
    """Whether a flag is set by the strongest source that says anything of it."""
    value = next((values[name] for _, values in reversed(sources) if name in values), False)
    return str(value).lower() in ("true", "1", "yes", "on", "y", "t")


def restart_needed(old: Settings, new: Settings) -> str | None:
    """What differs that only a restart can change, in words; None if nothing does."""
    for name in sorted(NEEDS_RESTART):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            return f"{name} is {before} and would be {after}: restart to change it"
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    """The file's top-level table."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"config {path}: cannot be read ({error.strerror}): name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"config {path}: not TOML ({error}): write lines such as 'port = 5000'"
        ) from error


def _first_complaint(error: ValidationError, origins: Mapping[str, str]) -> str:
    """One line about the first setting at fault."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    value = "***" if name in SECRETS else repr(first["input"])
    given = f"setting {name} = {value} ({origins.get(name, 'default')})"
    if first["type"] == "extra_forbidden":
        return f"{given} does not exist: choose among {', '.join(Settings.model_fields)}"
    complaint = first["msg"][0].lower() + first["msg"][1:]
    return f"{given}: {complaint} ({Settings.model_fields[name].description})"
