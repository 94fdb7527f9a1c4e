"""`dynhat config show`, LibreTranslate's variables, and the committed description of the HTTP interface."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.libretranslate_variables import NAMES
from dynhat_runtime.service.description import openapi_text
from dynhat_runtime.settings import Settings, load_settings, read_settings

OPENAPI = Path(__file__).parent.parent / "docs" / "openapi.json"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's shell reaches a test."""
    for name in ("CONFIG", *(field.upper() for field in Settings.model_fields)):
        monkeypatch.delenv(f"DYNHAT_{name}", raising=False)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def show(*arguments: str) -> str:
    """What `dynhat config show` prints."""
    result = CliRunner().invoke(app, ["config", "show", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_each_setting_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is shown once, with its value and the source that won."""
    config = tmp_path / "dynhat.toml"
    config.write_text('port = 1111\nhost = "10.0.0.1"\n', encoding="utf-8")
    monkeypatch.setenv("DYNHAT_PORT", "2222")
    shown = json.loads(show("--config", str(config), "--json"))
    assert set(shown) == set(Settings.model_fields)
    assert shown["port"] == {"value": 2222, "from": "in the environment"}
    assert shown["host"] == {"value": "10.0.0.1", "from": f"in {config}"}
    assert shown["beam_size"] == {"value": 4, "from": "default"}
    lines = show("--config", str(config)).splitlines()
    assert len(lines) == len(Settings.model_fields)
    assert any(line.split() == ["port", "2222", "in", "the", "environment"] for line in lines)


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is shown as set, and not as what it is; nor does a complaint repeat it."""
    monkeypatch.setenv("DYNHAT_METRICS_TOKEN", "hush-hush-hush")
    assert "hush" not in show() + show("--json")
    assert json.loads(show("--json"))["metrics_token"]["value"] == "***"
    monkeypatch.setenv("DYNHAT_METRICS_TOKEN", "hush")
    with pytest.raises(SettingsError, match=r"metrics_token = \*\*\*") as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_a_wrong_setting_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serve` would refuse is refused here with the same line."""
    monkeypatch.setenv("DYNHAT_PORT", "http")
    result = CliRunner().invoke(app, ["config", "show"])
    assert result.exit_code == 2
    assert "setting port = 'http' (in the environment)" in result.output


def test_lists_in_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable holds a list with commas."""
    monkeypatch.setenv("DYNHAT_CORS_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("DYNHAT_OVERLOAD_STATUS", "429")
    settings = load_settings()
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.overload_status == 429


# --- LibreTranslate's variables ---

VARIABLES = {
    "LT_HOST": "0.0.0.0",
    "LT_PORT": "8000",
    "LT_CHAR_LIMIT": "-1",
    "LT_BATCH_LIMIT": "7",
    "LT_REQ_LIMIT": "30",
    "LT_LOAD_ONLY": "en,de",
    "LT_METRICS": "false",
    "LT_METRICS_AUTH_TOKEN": "scrape-me-please",
    "LT_URL_PREFIX": "/mt",
}


@pytest.mark.parametrize("how", ["variable", "file", "command line"])
def test_libretranslate_s_variables(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are asked for, LibreTranslate's variables are in effect; otherwise none of them is."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert set(VARIABLES) == set(NAMES)
    assert load_settings() == Settings()
    config = tmp_path / "dynhat.toml"
    config.write_text("libretranslate_env = true\n" if how == "file" else "", encoding="utf-8")
    if how == "variable":
        monkeypatch.setenv("DYNHAT_LIBRETRANSLATE_ENV", "1")
    settings = load_settings(config, {"libretranslate_env": True} if how == "command line" else {})
    assert (settings.host, settings.port, settings.char_limit, settings.batch_limit) == (
        "0.0.0.0",
        8000,
        1_000_000,
        7,
    )
    assert (settings.rate_limit_per_minute, settings.load_only) == (30, ("en", "de"))
    assert (settings.metrics, settings.metrics_token, settings.url_prefix) == (
        False,
        "scrape-me-please",
        "/mt",
    )


def test_our_own_variables_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LibreTranslate's variables beat the file and are beaten by ours; their values are checked like any."""
    config = tmp_path / "dynhat.toml"
    config.write_text("port = 1111\nchar_limit = 10\nlibretranslate_env = true\n", encoding="utf-8")
    monkeypatch.setenv("LT_PORT", "2222")
    monkeypatch.setenv("LT_CHAR_LIMIT", "")
    reading = read_settings(config)
    assert (reading.settings.port, reading.origin("port")) == (2222, "in LibreTranslate's variables")
    assert reading.settings.char_limit == 10
    monkeypatch.setenv("DYNHAT_PORT", "3333")
    assert load_settings(config).port == 3333
    monkeypatch.setenv("LT_BATCH_LIMIT", "many")
    with pytest.raises(SettingsError, match=r"batch_limit = 'many' \(in LibreTranslate's variables\)"):
        load_settings(config)


# --- the description ---


def test_the_committed_description_is_the_one_served() -> None:
    """docs/openapi.json is what the daemon says of itself; `dynhat openapi > docs/openapi.json` renews it."""
    assert OPENAPI.read_text(encoding="utf-8") == openapi_text()


def test_the_description_is_openapi_3_1() -> None:
    """It says its version, and describes the body and the refusals of each way to translate."""
    described = json.loads(openapi_text())
    assert described["openapi"].startswith("3.1")
    for path in ("/v1/translate", "/v1/translate/stream"):
        operation = described["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert {"text", "source", "target"} <= set(schema["properties"])
        assert {"401", "413", "429", "503", "504"} <= set(operation["responses"])


def test_the_command_prints_it() -> None:
    """`dynhat openapi` prints the same."""
    result = CliRunner().invoke(app, ["openapi"])
    assert (result.exit_code, result.output) == (0, openapi_text())
