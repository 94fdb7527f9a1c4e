"""Settings: where they come from, which source wins, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No DYNHAT_* variable of the developer's shell reaches a test."""
    for name in ("CONFIG", *(field.upper() for field in Settings.model_fields)):
        monkeypatch.delenv(f"DYNHAT_{name}", raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A TOML file that sets a host, a port and a beam."""
    path = tmp_path / "dynhat.toml"
    path.write_text('host = "10.0.0.1"\nport = 1111\nbeam_size = 2\n', encoding="utf-8")
    return path


def test_defaults() -> None:
    """Without any source every setting has its documented default."""
    settings = load_settings()
    assert (settings.host, settings.port, settings.bundle, settings.table) == ("127.0.0.1", 5000, None, None)
    assert (settings.latency_budget_ms, settings.beam_size) == (None, 4)
    assert (settings.char_limit, settings.batch_limit, settings.queue_limit_sentences) == (5000, 128, 512)
    assert (settings.control_interval_s, settings.request_timeout_s, settings.drain_timeout_s) == (
        0.25,
        60,
        30,
    )


def test_precedence(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line beats the environment, which beats the file, which beats the default."""
    monkeypatch.setenv("DYNHAT_PORT", "2222")
    monkeypatch.setenv("DYNHAT_HOST", "10.0.0.2")
    settings = load_settings(config, {"host": "10.0.0.3"})
    assert settings.host == "10.0.0.3"
    assert settings.port == 2222
    assert settings.beam_size == 2
    assert settings.char_limit == 5000


def test_a_command_line_option_not_given_overrides_nothing(config: Path) -> None:
    """None from the command line leaves the file's value."""
    assert load_settings(config, {"port": None}).port == 1111


def test_config_variable(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DYNHAT_CONFIG names the file when the command line does not."""
    monkeypatch.setenv("DYNHAT_CONFIG", str(config))
    assert load_settings().port == 1111


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """DYNHAT_BUNDLE set to nothing means the shipped bundle, not the current folder."""
    monkeypatch.setenv("DYNHAT_BUNDLE", "")
    assert load_settings().bundle is None


def test_settings_are_frozen() -> None:
    """Nobody changes a setting once it is read."""
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65536),
        ("port", -1),
        ("port", "abc"),
        ("host", ""),
        ("latency_budget_ms", 0),
        ("latency_budget_ms", float("nan")),
        ("beam_size", 0),
        ("beam_size", 17),
        ("char_limit", 0),
        ("batch_limit", 0),
        ("queue_limit_sentences", 0),
        ("control_interval_s", 0),
        ("request_timeout_s", 0),
        ("drain_timeout_s", -1),
        ("log_level", "loud"),
        ("policy", "best"),
        ("confidence", 1.0),
        ("reference_tokens", 0),
        ("dwell_s", -1),
        ("max_switches_per_minute", 0),
        ("min_quality", 101),
        ("temperature_limit_celsius", float("nan")),
        ("cooling_limit_fraction", 1.1),
        ("power_limit_mw", 0),
        ("memory_floor_mib", 0),
        ("battery_saver_fraction", 2),
    ],
)
def test_a_bad_value_is_named_in_one_line(name: str, value: object) -> None:
    """A value out of bounds is refused in one line with the setting, the value and where it came from."""
    with pytest.raises(SettingsError) as caught:
        load_settings(command_line={name: value})
    message = str(caught.value)
    assert message.startswith(f"setting {name} = {value!r} (on the command line): ")
    assert "\n" not in message


def test_a_bad_variable_is_blamed_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that the wrong value stands in the environment."""
    monkeypatch.setenv("DYNHAT_PORT", "http")
    with pytest.raises(SettingsError, match=r"port = 'http' \(in the environment\)"):
        load_settings()


def test_an_unknown_key_in_the_file_lists_the_known(config: Path) -> None:
    """A misspelt key is an error that lists the settings there are."""
    config.write_text("prot = 5000\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"prot = 5000 \(in .*\) does not exist: choose among host, port"):
        load_settings(config)


@pytest.mark.parametrize("content", [b"port = = 5", b"\xff\xfe"])
def test_a_file_that_is_not_toml(config: Path, content: bytes) -> None:
    """A file that cannot be parsed is named in one line."""
    config.write_bytes(content)
    with pytest.raises(SettingsError, match="not TOML") as caught:
        load_settings(config)
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """A configuration file that was asked for and is not there is an error, not ignored."""
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(tmp_path / "absent.toml")
