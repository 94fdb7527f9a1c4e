"""More than one daemon: the shipped nginx configuration in a real nginx, the Kubernetes manifest by its schemas."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dynhat_runtime.settings import load_settings
from tests.daemon_process import PATIENCE_S, Process, until

FLEET = Path(__file__).parent.parent / "fleet"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
NUM_CLIENTS = 6

needs_nginx = [
    pytest.mark.nginx,
    pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx"),
]


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Fleet:
    """Two daemons with fake engines, and nginx with the shipped configuration, but for its addresses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, *self._ports = free_ports(3)
        self.url = f"http://127.0.0.1:{port}"
        self.daemons = [self._started(number) for number in range(2)]
        for daemon in self.daemons:
            daemon.line("ready: ")
        text = (
            (FLEET / "nginx.conf")
            .read_text(encoding="utf-8")
            .replace("listen 5000;", f"listen 127.0.0.1:{port};")
        )
        for number, its_port in enumerate(self._ports, start=11):
            assert f"192.0.2.{number}:5000" in text
            text = text.replace(f"192.0.2.{number}:5000", f"127.0.0.1:{its_port}")
        (folder / "site.conf").write_text(text, encoding="utf-8")
        (folder / "nginx.conf").write_text(
            f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n"
            + "".join(
                f"{kind}_temp_path {folder}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"include {folder}/site.conf;\n}}\n",
            encoding="utf-8",
        )
        assert NGINX is not None
        self._nginx = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL
        )
        until(lambda: self.ask("GET", "/health")[0] == 200)

    def _started(self, number: int) -> Process:
        folder = self.folder / f"daemon{number}"
        folder.mkdir(exist_ok=True)
        process = Process(folder, port=self._ports[number])
        process.touch("load", "go")
        return process

    def restart(self, number: int) -> None:
        """Stop one daemon as systemd would, start it again, and wait until it is ready."""
        self.daemons[number].terminate()
        assert self.daemons[number].wait() == 0
        self.daemons[number] = self._started(number)
        self.daemons[number].line("ready: ")

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str]]:
        """Status and headers, their names in small letters; 0 where nobody answers, or not to the end."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                answer.read()
                return answer.status, {name.lower(): value for name, value in answer.headers.items()}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {name.lower(): value for name, value in error.headers.items()}
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return 0, {}

    def translate(self) -> tuple[int, dict[str, str]]:
        """A native translation."""
        return self.ask("POST", "/v1/translate", {"text": ["a"], "source": "en", "target": "de"})

    def num_begun(self) -> list[int]:
        """Translations that each daemon has answered with 200."""
        found = []
        for port in self._ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
                lines = [
                    line for line in answer.read().decode().splitlines() if 'route="/v1/translate"' in line
                ]
            found.append(
                sum(float(line.split()[-1]) for line in lines if "requests_total" in line and '"200"' in line)
            )
        return [int(number) for number in found]

    def close(self) -> None:
        """End everything."""
        self._nginx.terminate()
        self._nginx.wait(PATIENCE_S)
        for daemon in self.daemons:
            daemon.popen.kill()
            daemon.wait()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of two."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


class Load:
    """Clients that translate without a pause, and count how they are answered."""

    def __init__(self, fleet: Fleet) -> None:
        self.statuses: Counter[int] = Counter()
        self._fleet, self._is_over = fleet, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            status, _ = self._fleet.translate()
            self.statuses[status] += 1

    def stop(self) -> None:
        """Let every request under way be answered."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)


class TestNginx:
    """The shipped configuration, with a real nginx."""

    pytestmark = needs_nginx

    def test_a_rolling_restart(self, fleet: Fleet) -> None:
        """Both daemons are restarted, one after the other, amid requests, and not one request fails."""
        load = Load(fleet)
        try:
            until(lambda: load.statuses[200] > 100)
            for number in range(2):
                before = load.statuses[200]
                fleet.restart(number)
                until(lambda before=before: load.statuses[200] > before + 100)
        finally:
            load.stop()
        assert set(load.statuses) == {200}, load.statuses
        assert all(number > 0 for number in fleet.num_begun())

    def test_a_daemon_that_is_killed(self, fleet: Fleet) -> None:
        """Killed with -9 amid requests it costs none: what it had begun the other does again."""
        load = Load(fleet)
        try:
            until(lambda: load.statuses[200] > 100)
            fleet.daemons[0].terminate(signal.SIGKILL)
            before = load.statuses[200]
            until(lambda: load.statuses[200] > before + 200)
        finally:
            load.stop()
        assert set(load.statuses) == {200}, load.statuses

    def test_overload(self, fleet: Fleet) -> None:
        """What one daemon's full queue refuses the other answers; both full, the client hears 503 and when to come."""
        fleet.daemons[0].touch("overloaded")
        assert {fleet.translate()[0] for _ in range(20)} == {200}
        assert fleet.num_begun() == [0, 20]
        fleet.daemons[1].touch("overloaded")
        status, headers = fleet.translate()
        assert (status, headers["retry-after"]) == (503, "1")
        (fleet.daemons[0].folder / "overloaded").unlink()
        assert {fleet.translate()[0] for _ in range(20)} == {200}

    def test_what_is_one_daemons_own(self, fleet: Fleet) -> None:
        """Through nginx nobody pins one daemon's point, or reads the metrics of whichever answers."""
        assert fleet.ask("GET", "/metrics")[0] == 404
        assert fleet.ask("PUT", "/v1/operating-point", {"mode": "auto"})[0] == 403
        assert fleet.ask("GET", "/v1/operating-point")[0] == 200


# --- the Kubernetes manifest ---

MANIFESTS = list(yaml.safe_load_all((FLEET / "kubernetes.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_schema(manifest: dict[str, Any]) -> None:
    """Kubernetes' own schema takes it, and knows every field."""
    kubernetes_validate.validate(manifest, "1.30", strict=True)


def test_the_schema_refuses() -> None:
    """The validator finds a field that there is not."""
    wrong = {**MANIFESTS[1], "spec": {**MANIFESTS[1]["spec"], "portz": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.30", strict=True)


def test_the_manifest_says_what_the_daemon_does() -> None:
    """Probes ask routes that there are, settings are ours, and Kubernetes waits longer than the daemon drains."""
    pod = MANIFESTS[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    routes = json.loads((FLEET.parent / "docs/openapi.json").read_text(encoding="utf-8"))["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in routes
    variables = {each["name"].removeprefix("DYNHAT_").lower(): each["value"] for each in container["env"]}
    settings = load_settings(command_line=variables)
    assert pod["terminationGracePeriodSeconds"] > settings.drain_grace_s + settings.drain_timeout_s
    assert settings.drain_grace_s > container["readinessProbe"]["periodSeconds"]
    scrape = MANIFESTS[0]["spec"]["template"]["metadata"]["annotations"]
    assert scrape["prometheus.io/path"] in routes
    assert int(scrape["prometheus.io/port"]) == container["ports"][0]["containerPort"] == settings.port
