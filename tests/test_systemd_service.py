"""The daemon as a service of a real systemd: started, killed, stuck, reloaded, restarted under load, stopped.

Real are systemd, the units that `dynhat install-service` writes, their sandbox, and the shipped bundle. Where a test
needs a fault it runs `faulty_daemon.py` in the daemon's place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.booted_systemd import PREFIX, PYTHON, BootedSystemd, booted, wait_until, why_not

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.daemon,
    pytest.mark.skipif(why_not() is not None, reason=f"needs to boot a systemd: {why_not()}"),
]

SERVICE, SOCKET = "dynhat.service", "dynhat.socket"
FAULTS = "/opt/dynhat/faults"
BEGUN = "/var/lib/private/dynhat/begun"
TCP, UNIX = "http://127.0.0.1:5000", "/run/dynhat.sock"
CLIENT = Path(__file__).with_name("translation_client.py")
KEY_FILE = "/etc/dynhat/keys.toml"
START_S = 60.0
RUNNING = {"ActiveState": "active", "SubState": "running"}

# What the test's place of installation needs, and a watchdog that does not let the test wait.
DROP_IN = f"""
[Unit]
StartLimitIntervalSec=0
[Service]
Environment=PYTHONPATH={PREFIX}/src LD_LIBRARY_PATH=/opt/python/lib DYNHAT_STALL_FLOOR_S=0.5
WatchdogSec=2
"""
FAULTY = f"""
[Service]
ExecStart=
ExecStart={PYTHON} -m tests.faulty_daemon {FAULTS}
"""
PROBE = f"""
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart=
ExecStart={PYTHON} -m tests.sandbox_probe
"""
JTOP = """
import os, shutil, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/jtop.sock")
os.chmod("/run/jtop.sock", 0o660)
shutil.chown("/run/jtop.sock", "root", "jtop")
listener.listen()
while True:
    listener.accept()[0].sendall(b"jtop")
"""


class Client:
    """Translations on their way, sent by a process of their own."""

    def __init__(
        self,
        machine: BootedSystemd,
        where: str,
        number: int = 1,
        concurrency: int = 1,
        request_id: str = "test",
        key: str = "",
    ) -> None:
        at = where if where == TCP else str(machine.root / where.lstrip("/"))
        command = [sys.executable, str(CLIENT), at, str(number), str(concurrency), request_id, key]
        self._process = machine.network(*command, stdout=subprocess.PIPE)

    def answers(self) -> dict[str, int]:
        """How many translations ended how, once all have."""
        answers: dict[str, int] = json.loads(self._process.communicate(timeout=2 * START_S)[0])
        return answers

    @property
    def is_waiting(self) -> bool:
        """Whether answers are still to come."""
        return self._process.poll() is None


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedSystemd]:
    """A booted machine with the service installed and its sockets open, and with what a Jetson has."""
    with booted(Path(tmp_path_factory.mktemp("systemd"))) as machine:
        machine.run("groupadd", "-r", "jtop")
        machine.run("sh", "-ec", "mknod -m 660 /dev/nvmap c 10 229; chgrp video /dev/nvmap")
        machine.run("mknod", "-m", "666", "/dev/other", "c", "10", "237")
        machine.run("systemd-run", "--quiet", "--unit=jtop", "/usr/bin/python3", "-c", JTOP)
        machine.run(str(PYTHON), "-m", "dynhat_runtime", "install-service", "--jtop")
        drop_in(machine, SERVICE, "20-test.conf", DROP_IN)
        machine.run("mkdir", FAULTS)
        machine.run("systemctl", "start", SOCKET)
        yield machine


@pytest.fixture
def service(machine: BootedSystemd) -> BootedSystemd:
    """The machine with the service running, its own program."""
    return running(machine, is_faulty=False)


@pytest.fixture
def faulty(machine: BootedSystemd) -> Iterator[BootedSystemd]:
    """The machine with the faulty daemon running as the service."""
    yield running(machine, is_faulty=True)
    for fault in ("hold-loading", "stick", "slow"):
        machine.remove(f"{FAULTS}/{fault}")


def drop_in(machine: BootedSystemd, unit: str, name: str, text: str | None) -> None:
    """Give a unit a drop-in, or take it away."""
    path = f"/etc/systemd/system/{unit}.d/{name}"
    if text is None:
        machine.remove(path)
    else:
        machine.write(path, text)
    machine.run("systemctl", "daemon-reload")


def running(machine: BootedSystemd, *, is_faulty: bool) -> BootedSystemd:
    """The machine with the one program or the other running, started only if it is not."""
    has_started = machine.property(SERVICE, "ActiveState") == "active"
    if not has_started or ("faulty_daemon" in machine.property(SERVICE, "ExecStart")) is not is_faulty:
        drop_in(machine, SERVICE, "30-faulty.conf", FAULTY if is_faulty else None)
        machine.run("systemctl", "restart", SERVICE)
    return machine


def num_restarts(machine: BootedSystemd) -> int:
    """How often systemd has started it again by itself."""
    return int(machine.property(SERVICE, "NRestarts"))


def messages(machine: BootedSystemd, unit: str = SERVICE) -> str:
    """The journal's lines, each behind its priority."""
    return "\n".join(f"<{entry['PRIORITY']}>{entry['MESSAGE']}" for entry in machine.journal(unit))


def test_verify_is_silent(machine: BootedSystemd) -> None:
    """systemd-analyze finds nothing to say about the units: an unknown key would be no error, but a line."""
    folder = "/etc/systemd/system"
    assert (
        machine.run("systemd-analyze", "verify", "--man=no", f"{folder}/{SERVICE}", f"{folder}/{SOCKET}")
        == ""
    )


def test_exposure(machine: BootedSystemd) -> None:
    """The sandbox leaves an exposure of at most 0.6 of 10."""
    report = machine.run("systemd-analyze", "security", "--no-pager", SERVICE)
    last = report.strip().splitlines()[-1]
    assert float(last.split(": ")[1].split()[0]) <= 0.6, last


def test_what_the_sandbox_lets_through(machine: BootedSystemd) -> None:
    """torch computes with the instructions and threads it has outside; jtop, GPU nodes and sysfs are reached, nothing
    else is."""
    folder = machine.root / "etc/systemd/system"
    unit = "dynhat-probe.service"
    machine.write(f"/etc/systemd/system/{unit}", (folder / SERVICE).read_text())
    for source in (folder / f"{SERVICE}.d").glob("[12]0-*.conf"):
        drop_in(machine, unit, source.name, source.read_text())
    drop_in(machine, unit, "40-probe.conf", PROBE)
    machine.run("systemctl", "start", unit)
    found = next(
        json.loads(entry["MESSAGE"]) for entry in machine.journal(unit) if entry["MESSAGE"][0] == "{"
    )
    outside = json.loads(machine.run(str(PYTHON), "-m", "tests.sandbox_probe"))
    assert found["torch"] == outside["torch"]
    assert found["reached"] == {"jtop": "jtop", "nvmap": "opened", "cpus": outside["reached"]["cpus"]}
    assert set(found["refused"].values()) == {"refused"}, found["refused"]


def test_ready_when_translations_work(faulty: BootedSystemd) -> None:
    """It is starting for as long as the model is being loaded, a request waits meanwhile, and then is answered."""
    faulty.run("systemctl", "stop", SERVICE)
    faulty.write(f"{FAULTS}/hold-loading", "")
    faulty.run("systemctl", "start", "--no-block", SERVICE)
    client = Client(faulty, TCP)
    num_loading = messages(faulty).count("loading: ")
    wait_until(lambda: messages(faulty).count("loading: ") >= num_loading, "loading")
    time.sleep(1.0)
    assert faulty.property(SERVICE, "SubState") == "start"
    assert client.is_waiting
    faulty.remove(f"{FAULTS}/hold-loading")
    faulty.wait_for(SERVICE, RUNNING, START_S)
    assert client.answers() == {"200": 1}
    status = faulty.property(SERVICE, "StatusText")
    assert status.startswith("serving: operating point ")
    assert status.endswith(", chosen by the governor")


def test_a_stuck_decoder(faulty: BootedSystemd) -> None:
    """Idle it lives on; once a translation does not get on, the watchdog starts it anew, every stack in the log."""
    before = num_restarts(faulty)
    time.sleep(3.0)  # longer than the watchdog's period
    assert num_restarts(faulty) == before
    faulty.write(f"{FAULTS}/stick", "")
    Client(faulty, TCP).answers()  # comes back without one: its connection ends with the process
    wait_until(lambda: num_restarts(faulty) > before, "started anew")
    faulty.remove(f"{FAULTS}/stick")
    faulty.wait_for(SERVICE, RUNNING, START_S)
    assert Client(faulty, TCP).answers() == {"200": 1}
    log = messages(faulty)
    assert "<3>ERROR decoding is stuck: nothing has ended for " in log
    assert "Watchdog timeout" in log
    assert "in _while_there" in log


def test_stop_drains(faulty: BootedSystemd) -> None:
    """A translation that has begun, and gets on slowly, is answered before the service is gone with success."""
    faulty.write(f"{FAULTS}/slow", "")
    faulty.remove(BEGUN)
    client = Client(faulty, UNIX)
    wait_until((faulty.root / BEGUN.lstrip("/")).exists, "begun")
    assert client.is_waiting
    faulty.run("systemctl", "stop", SERVICE)
    assert client.answers() == {"200": 1}
    assert faulty.property(SERVICE, "Result") == "success"
    assert faulty.property(SERVICE, "ExecMainStatus") == "0"


def test_killed(service: BootedSystemd, record_property: Callable[[str, object], None]) -> None:
    """Killed with -9 it serves again by itself, and a request sent meanwhile is only late."""
    before, pid = num_restarts(service), service.property(SERVICE, "MainPID")
    began_s = time.monotonic()
    service.run("kill", "-9", pid)
    assert Client(service, TCP).answers() == {"200": 1}
    elapsed_s = time.monotonic() - began_s
    record_property("from_kill_to_answer_s", round(elapsed_s, 2))
    print(f"answered {elapsed_s:.1f} s after kill -9")
    assert num_restarts(service) == before + 1


def test_restarts_under_load(service: BootedSystemd) -> None:
    """Two restarts amid 200 translations, over TCP and over the unix socket, and every one is answered."""
    clients = [Client(service, where, number=100, concurrency=2) for where in (TCP, UNIX)]
    for _ in range(2):
        time.sleep(0.5)
        service.run("systemctl", "restart", SERVICE)
    assert all(client.is_waiting for client in clients), "the load was over before the restarts were"
    assert [client.answers() for client in clients] == [{"200": 100}] * 2


def test_reload(service: BootedSystemd) -> None:
    """Reloaded with settings that cannot work it keeps the old ones and says so; with sound ones it takes them."""
    settings = "/etc/dynhat/dynhat.toml"
    before, pid = (service.root / settings.lstrip("/")).read_text(), service.property(SERVICE, "MainPID")

    def reload(text: str, said: str) -> None:
        service.write(settings, text)
        service.run("systemctl", "reload", SERVICE)
        # The journal keeps what the status says for a while only: until the next change of the operating point.
        wait_until(lambda: said in messages(service), said)
        service.wait_for(SERVICE, RUNNING)

    reload(
        "beam_size = 99\n",
        "<3>ERROR reload refused, everything stays as it was: setting beam_size = 99 (in /etc/dynhat/",
    )
    assert Client(service, TCP).answers() == {"200": 1}
    reload("beam_size = 1\n", "INFO reloaded: ")
    assert Client(service, TCP).answers() == {"200": 1}
    service.write(settings, before)
    assert service.property(SERVICE, "MainPID") == pid


def test_a_setting_that_cannot_work(service: BootedSystemd) -> None:
    """It leaves with 2, is not started again, and says why in its status and in the journal, as an error."""
    settings = "/etc/dynhat/dynhat.toml"
    before = (service.root / settings.lstrip("/")).read_text()
    service.run("systemctl", "stop", SERVICE)
    service.write(settings, "beam_size = 99\n")
    service.run("systemctl", "start", SERVICE, check=False)
    service.write(settings, before)
    assert service.property(SERVICE, "ActiveState") == "failed"
    assert service.property(SERVICE, "ExecMainStatus") == "2"
    assert "<3>dynhat: error: setting beam_size = 99 (in /etc/dynhat/dynhat.toml)" in messages(service)


def test_keys(service: BootedSystemd) -> None:
    """A key file that only root can read is served by: without its key a translation is refused."""
    service.write(KEY_FILE, '[keys.test]\nkey = "a long and random key"\n')
    service.run("chmod", "600", KEY_FILE)
    service.run(str(PYTHON), "-m", "dynhat_runtime", "install-service", "--jtop", "--key-file", KEY_FILE)
    service.run("systemctl", "daemon-reload")
    service.run("systemctl", "restart", SERVICE)
    assert next(iter(Client(service, TCP).answers())).startswith("400 ")
    assert Client(service, TCP, key="a long and random key").answers() == {"200": 1}
    service.run(str(PYTHON), "-m", "dynhat_runtime", "install-service", "--jtop")
    service.run("systemctl", "daemon-reload")
    service.run("systemctl", "stop", SERVICE)


def test_journal_lines(service: BootedSystemd) -> None:
    """A line of ours has the priority of its level, our name, no second clock, and the id of its request."""
    Client(service, TCP, request_id="from-the-test").answers()
    answered = wait_until(
        lambda: [
            entry for entry in service.journal(SERVICE) if "request_id=from-the-test" in entry["MESSAGE"]
        ],
        "a line with the request's id",
    )[-1]
    assert answered["MESSAGE"].startswith("INFO answered ")
    assert answered["PRIORITY"] == "6"
    entry = [entry for entry in service.journal(SERVICE) if "ready: " in entry["MESSAGE"]][-1]
    assert entry["MESSAGE"].startswith("INFO ready: ")
    assert entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "dynhat"
