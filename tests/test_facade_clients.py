"""Published clients, unchanged, against the real daemon: LibreTranslate's and DeepL's."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import deepl
import pytest
from libretranslatepy import LibreTranslateAPI

from dynhat_runtime.model.checkpoint import Bundle
from tests.tiny_bundle import SENTENCES

pytestmark = pytest.mark.daemon

PATIENCE_S = 60.0
KEY = "a key that is long enough"


@contextmanager
def daemon(bundle: Path, *options: str) -> Iterator[str]:
    """`dynhat serve` on a free port; where it is reached."""
    command = [sys.executable, "-m", "dynhat_runtime", "serve", "--port", "0", "--bundle", str(bundle)]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"ready.*?(http://[^\s\",]+)", line):
                break
        else:
            pytest.fail(f"the daemon ended with {process.wait()}: {lines}")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.fixture(scope="module")
def url(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon that asks for a key, and whose queue takes few requests."""
    folder = tmp_path_factory.mktemp("keys")
    key_file = folder / "keys.toml"
    key_file.write_text(f'[keys.kitchen]\nkey = "{KEY}"\n')
    config = folder / "dynhat.toml"
    config.write_text(f'key_file = "{key_file}"\nqueue_limit_requests = 1\n')
    with daemon(tiny_bundle.path, "--config", str(config)) as address:
        yield address


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepL's client gives up at the first refusal, where it would come again for half a minute."""
    monkeypatch.setattr(deepl.http_client, "max_network_retries", 0)


@pytest.fixture
def translator(url: str) -> deepl.Translator:
    """DeepL's own client with the right key."""
    return deepl.Translator(KEY, server_url=url)


# --- LibreTranslate's client ---


def test_libretranslatepy(url: str) -> None:
    """It translates, detects and lists languages."""
    client = LibreTranslateAPI(url, api_key=KEY)
    assert isinstance(client.translate(SENTENCES[0], "en", "de"), str)
    assert client.translate("🙂 {name} 42", "auto", "de") == "🙂 {name} 42"
    assert client.detect("Wo ist der Bahnhof?")[0]["language"] == "de"
    assert {"code": "en", "name": "English", "targets": ["de"]} in client.languages()


@pytest.mark.parametrize(("key", "status"), [(None, 400), ("wrong", 403)])
def test_libretranslatepy_without_its_key(url: str, key: str | None, status: int) -> None:
    """It is refused as LibreTranslate refuses."""
    with pytest.raises(urllib.error.HTTPError) as refusal:
        LibreTranslateAPI(url, api_key=key).translate(SENTENCES[0], "en", "de")
    assert refusal.value.code == status


# --- DeepL's client ---


def test_deepl_text(translator: deepl.Translator) -> None:
    """A text is a result, with what was placed in it unharmed."""
    result = translator.translate_text("See {name} at https://example.org/a.", target_lang="DE")
    assert isinstance(result, deepl.TextResult)
    assert "{name}" in result.text
    assert "https://example.org/a" in result.text
    assert result.detected_source_lang == "EN"
    assert result.billed_characters == 36


def test_deepl_texts(translator: deepl.Translator) -> None:
    """A list of texts is a list of results, and what is no language comes back."""
    results = translator.translate_text([SENTENCES[0], "", "🙂", "42"], source_lang="EN", target_lang="DE")
    assert isinstance(results, list)
    assert [result.text for result in results[1:]] == ["", "🙂", "42"]


def test_deepl_model_types(translator: deepl.Translator) -> None:
    """The model type asked for is the one used."""
    model_type = deepl.ModelType.LATENCY_OPTIMIZED
    result = translator.translate_text(SENTENCES[0], target_lang="DE", model_type=model_type)
    assert isinstance(result, deepl.TextResult)
    assert result.model_type_used == "latency_optimized"


def test_deepl_tags(translator: deepl.Translator) -> None:
    """Markup comes back as it was."""
    text = '<x id="1">%s</x><code>ls -l</code>'
    result = translator.translate_text(text, target_lang="DE", tag_handling="xml", ignore_tags=["x"])
    assert isinstance(result, deepl.TextResult)
    assert result.text == text


def test_deepl_languages_and_usage(translator: deepl.Translator) -> None:
    """Languages by code and name; usage counts, and there is no limit to reach."""
    assert [(each.code, each.name) for each in translator.get_source_languages()] == [("EN", "English")]
    assert [(each.code, each.supports_formality) for each in translator.get_target_languages()] == [
        ("DE", False)
    ]
    before = translator.get_usage().character.count
    translator.translate_text("Hello.", target_lang="DE")
    usage = translator.get_usage()
    assert usage.character.count == (before or 0) + 6
    assert not usage.any_limit_reached


def test_deepl_wrong_key(url: str) -> None:
    """A wrong key is the client's AuthorizationException."""
    with pytest.raises(deepl.AuthorizationException):
        deepl.Translator("wrong", server_url=url).translate_text("Hello.", target_lang="DE")


def test_deepl_refusals(translator: deepl.Translator) -> None:
    """What cannot be had is the client's DeepLException, and says what it is."""
    with pytest.raises(deepl.DeepLException, match="target_lang"):
        translator.translate_text("Hello.", target_lang="FR")
    with pytest.raises(deepl.DeepLException, match="formality"):
        translator.translate_text("Hello.", target_lang="DE", formality="more")


@pytest.mark.usefixtures("no_patience")
def test_deepl_overload(url: str) -> None:
    """When more comes than the queue takes, the client hears TooManyRequests; what was taken is answered."""
    text = " ".join(SENTENCES)[:4900]

    def ask(_: int) -> str:
        try:
            deepl.Translator(KEY, server_url=url).translate_text(text, source_lang="EN", target_lang="DE")
        except deepl.TooManyRequestsException:
            return "refused"
        return "answered"

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(8)))
    assert set(answers) == {"refused", "answered"}
