"""Settings of the daemon: every one has a meaning, a unit in its name, bounds and a default.

Precedence: command line > environment (DYNHAT_*) > TOML file > default. Opens nothing the settings name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from dynhat_runtime.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "DYNHAT_"
CONFIG_VARIABLE = "DYNHAT_CONFIG"
"""Names the TOML file when the command line does not."""

Milliseconds = Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


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
    beam_size: int = Field(4, ge=1, le=16, description="hypotheses kept per sentence")
    char_limit: int = Field(
        5000, ge=1, le=1_000_000, description="characters per request, all texts together"
    )
    batch_limit: int = Field(128, ge=1, le=4096, description="texts per request")
    queue_limit_sentences: int = Field(512, ge=1, le=65536, description="sentences that may wait before 429")
    control_interval_s: float = Field(
        0.25, ge=0.01, le=60, description="time between two governor decisions, in s"
    )
    request_timeout_s: float = Field(60, gt=0, le=3600, description="time one request may take, in s")
    drain_timeout_s: float = Field(
        30, ge=0, le=3600, description="time requests get to finish at shutdown, in s"
    )
    stall_factor: float = Field(
        10, ge=2, le=1000, description="times its predicted latency that a batch may stand still"
    )
    stall_floor_s: float = Field(
        10, ge=0.1, le=3600, description="time that a batch may stand still at least, in s"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe line logged"
    )


def load_settings(config: Path | None = None, command_line: Mapping[str, Any] | None = None) -> Settings:
    """Settings from all sources.

    Args:
        config: TOML file; without it the one that DYNHAT_CONFIG names, if any.
        command_line: Settings given there; None as a value means not given.

    Raises:
        SettingsError: One line naming the setting, where it came from, its value and what would do.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    sources: list[tuple[str, Mapping[str, Any]]] = [
        (f"in {config}", {} if config is None else _read_toml(config)),
        ("in the environment", EnvSettingsSource(Settings)()),
        ("on the command line", {k: v for k, v in (command_line or {}).items() if v is not None}),
    ]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in sources:
        merged.update(values)
        origins.update(dict.fromkeys(values, origin))
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_first_complaint(error, origins)) from None


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
    given = f"setting {name} = {first['input']!r} ({origins.get(name, 'default')})"
    if first["type"] == "extra_forbidden":
        return f"{given} does not exist: choose among {', '.join(Settings.model_fields)}"
    complaint = first["msg"][0].lower() + first["msg"][1:]
    return f"{given}: {complaint} ({Settings.model_fields[name].description})"
