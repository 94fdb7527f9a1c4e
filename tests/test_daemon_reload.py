"""The daemon as a process: what it reads anew, what it keeps, whom it lets in, and the two ways down."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from dynhat_runtime.daemon import run
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.settings import load_settings
from tests.daemon_process import PATIENCE_S, Process, until

pytestmark = pytest.mark.daemon

KEY, OTHER_KEY = "kitchen-0123456789abcdef", "office-0123456789abcdef"

Start = Callable[..., Process]


def write_config(process_folder: Path, **lines: object) -> None:
    """Settings in the file that the fake daemon reads."""
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
    (process_folder / "dynhat.toml").write_text(text, encoding="utf-8")


def hang_up(process: Process, answer: str) -> str:
    """Tell it to reload; the line that it answers with."""
    process.terminate(signal.SIGHUP)
    return process.line(answer)


# --- SIGHUP ---


def test_a_reload(start: Start, tmp_path: Path) -> None:
    """SIGHUP brings new settings and a new table into effect without a pause; it serves on under the same address."""
    write_config(tmp_path, char_limit=10)
    process = start("load", "go")
    process.line("ready: .* of 3, budget 35 ms")
    assert process.translate("x" * 11)[0] == 400
    write_config(tmp_path, char_limit=20, latency_budget_ms=50)
    hang_up(process, "reloaded: keys, limits, table and governor; operating point p1")
    assert process.translate("x" * 11) == (200, {"translatedText": "X" * 11})
    assert len(process.get("/v1/operating-points")[1]["points"]) == 5
    until(lambda: process.stopped() == ["control", "engine"])  # those that were replaced
    process.terminate()
    assert process.wait() == 0
    assert process.stopped() == ["control", "engine"] * 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"char_limit": 0}, "setting char_limit = 0"),
        ({"prot": 1}, "setting prot = 1"),
        ({"bundle": "/somewhere/else"}, "bundle is None and would be /somewhere/else: restart to change it"),
        ({"key_file": "absent.toml"}, "key file absent.toml: cannot be read"),
        ({"latency_budget_ms": 50, "host": "127.0.0.2"}, "host is 127.0.0.1 and would be 127.0.0.2: restart"),
    ],
)
def test_a_reload_that_is_refused(start: Start, tmp_path: Path, lines: dict[str, object], words: str) -> None:
    """With anything wrong everything stays as it was, one line says why, and it serves on."""
    process = start("load", "go")
    process.line("ready: ")
    write_config(tmp_path, **lines)
    line = hang_up(process, "reload refused")
    assert f"reload refused, everything stays as it was: {words}" in line
    assert process.translate("a") == (200, {"translatedText": "A"})
    assert len(process.get("/v1/operating-points")[1]["points"]) == 3
    assert not any("Traceback" in line for line in process.lines)


def test_a_bad_table_is_refused(start: Start, tmp_path: Path) -> None:
    """A table that cannot be used leaves the one there is, also with other settings that could be."""
    process = start("load", "go", "bad_table")
    process.line("ready: ")
    write_config(tmp_path, latency_budget_ms=50, char_limit=1)
    assert "table.json: was measured on other weights" in hang_up(process, "reload refused")
    assert process.translate("ab") == (200, {"translatedText": "AB"})


def test_a_request_survives_a_reload(start: Start, tmp_path: Path) -> None:
    """A request that has begun is answered by the engine it began with, however late."""
    process = start("load")
    process.line("ready: ")
    thread, answers = process.translate_meanwhile("a")
    until((tmp_path / "submitted").exists)
    write_config(tmp_path, latency_budget_ms=50)
    hang_up(process, "reloaded: ")
    process.touch("go")
    thread.join(PATIENCE_S)
    assert answers == [(200, {"translatedText": "A"})]


def test_a_pinned_point_stays_pinned(start: Start, tmp_path: Path) -> None:
    """What somebody pinned is pinned after a reload, too."""
    process = start("load", "go")
    process.line("ready: ")
    request = urllib.request.Request(
        f"{process.url}/v1/operating-point",
        json.dumps({"mode": "pinned", "point": "p2"}).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S):
        pass
    write_config(tmp_path, latency_budget_ms=50)
    hang_up(process, "reloaded: .*operating point p2")
    state = process.get("/v1/operating-point")[1]
    assert (state["active"]["id"], state["mode"]) == ("p2", "pinned")


def test_a_reload_while_loading(start: Start) -> None:
    """SIGHUP during loading changes nothing and ends nothing."""
    process = start()
    process.line("loading: ")
    hang_up(process, "reload refused.*loading")
    process.touch("load", "go")
    process.line("ready: ")
    assert process.translate("a")[0] == 200


# --- keys ---


def write_keys(path: Path, **keys: str) -> None:
    """A key file, put in its place at once."""
    text = "".join(f'[keys.{name}]\nkey = "{key}"\n' for name, key in keys.items())
    path.with_suffix(".new").write_text(text, encoding="utf-8")
    os.replace(path.with_suffix(".new"), path)


def test_keys_from_a_file(start: Start, tmp_path: Path) -> None:
    """Keys are asked for, a changed file is in effect without a signal, a broken one changes nothing, and no key is
    ever logged."""
    path = tmp_path / "keys.toml"
    write_keys(path, kitchen=KEY)
    process = start("load", "go", key_file=str(path))
    process.line("ready: ")
    assert process.translate("a")[0] == 400
    assert process.translate("a", OTHER_KEY)[0] == 403
    assert process.translate("a", KEY)[0] == 200
    assert process.get("/v1/operating-point")[0] == 401
    assert process.get("/health")[0] == 200
    write_keys(path, office=OTHER_KEY)
    process.line("keys reloaded: 1")
    assert process.translate("a", OTHER_KEY)[0] == 200
    assert process.translate("a", KEY)[0] == 403
    path.write_text("[keys", encoding="utf-8")
    process.line("keys not reloaded, the old ones stay: key file")
    assert process.translate("a", OTHER_KEY)[0] == 200
    assert not any(KEY in line or OTHER_KEY in line for line in process.lines)


def test_nobody_listens_to_strangers_by_mistake(tmp_path: Path) -> None:
    """Beyond loopback it does not start without keys, and says what to do."""
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 can be reached.*--key-file, or --allow-unauth"):
        run(load_settings(command_line={"host": "0.0.0.0", "port": 0}))


@pytest.mark.parametrize("how", ["allowed", "with keys"])
def test_beyond_loopback(start: Start, tmp_path: Path, how: str) -> None:
    """With keys, or when told that it may, it listens beyond loopback."""
    write_keys(tmp_path / "keys.toml", kitchen=KEY)
    more = {"allow_unauthenticated": True} if how == "allowed" else {"key_file": str(tmp_path / "keys.toml")}
    process = start("load", "go", host="0.0.0.0", **more)
    assert process.line("ready: http://0.0.0.0:")


# --- HTTPS ---


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https(start: Start, tmp_path: Path) -> None:
    """With certificate and key it serves HTTPS, and a renewed certificate is in effect after SIGHUP."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def make_certificate() -> None:
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
        )
        files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)

    def answer() -> int:
        trusting = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(
            f"{process.url}/health", context=trusting, timeout=PATIENCE_S
        ) as response:
            return int(response.status)

    make_certificate()
    process = start("load", "go", tls_certificate=str(certificate), tls_key=str(key))
    process.line("ready: https://127")
    assert answer() == 200
    make_certificate()
    hang_up(process, "reloaded: ")
    assert answer() == 200
    process.terminate()
    assert process.wait() == 0


def test_half_of_https(tmp_path: Path) -> None:
    """A certificate without its key is a setting at fault."""
    with pytest.raises(SettingsError, match="tls_key is missing"):
        run(load_settings(command_line={"tls_certificate": tmp_path / "cert.pem", "port": 0}))


# --- the ways down ---


def test_grace(start: Start) -> None:
    """During the grace period it is not ready and serves on; after it, it drains and ends with 0."""
    process = start("load", "go", drain_grace_s=1.0)
    process.line("ready: ")
    process.terminate()
    process.line("leaving: serving on for 1 s")
    assert process.get("/readyz") == (503, {"ready": False, "status": "draining"})
    assert process.translate("a") == (200, {"translatedText": "A"})
    assert process.wait() == 0
    assert any("draining: " in line for line in process.lines)


def test_a_farewell_on_open_connections(start: Start) -> None:
    """While it drains a client that keeps its connection hears 503 with Connection: close, and it is closed."""
    process = start("load")
    process.line("ready: ")
    thread, answers = process.translate_meanwhile("a")
    until((process.folder / "submitted").exists)
    connection = http.client.HTTPConnection(process.url.removeprefix("http://"), timeout=PATIENCE_S)
    connection.request("GET", "/v1/operating-point")
    answer = connection.getresponse()
    assert (answer.status, bool(answer.read())) == (200, True)
    assert connection.sock is not None
    kept = connection.sock.dup()  # http.client closes its own at the farewell
    process.terminate()
    process.line("draining: 1 requests")
    connection.request("GET", "/v1/operating-point")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (503, "close")
    assert json.loads(answer.read())["code"] == "not_ready"
    assert kept.recv(1) == b""  # so has the daemon
    kept.close()
    process.touch("go")
    thread.join(PATIENCE_S)
    assert answers == [(200, {"translatedText": "A"})]
    assert process.wait() == 0
