"""The daemon as a service of a real systemd: started, killed, stuck, reloaded, restarted under load, stopped.

Real are systemd, the units that `dynhat install-service` writes, their sandbox, and the shipped bundle. Where a test
needs a fault it runs `faulty_daemon.py` in the daemon's place.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
TCP, UNIX = "http://127.0.0.1:5000", "/run/dynhat.sock"
CLIENT = Path(__file__).with_name("translation_client.py")
START_S = 60.0
RUNNING = {"ActiveState": "active", "SubState": "running"}

# What the test's place of installation needs; and a watchdog that does not let the test wait.
DROP_IN = f"""
[Service]
Environment=PYTHONPATH={PREFIX}/src LD_LIBRARY_PATH=/opt/python/lib OMP_NUM_THREADS=1 DYNHAT_STALL_FLOOR_S=0.5
WatchdogSec=2
"""
FAULTY = f"""
[Service]
ExecStart=
ExecStart={PYTHON} -m tests.faulty_daemon {FAULTS}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedSystemd]:
    """A booted machine with the service installed and its sockets open."""
    with booted(Path(tmp_path_factory.mktemp("systemd"))) as machine:
        machine.run(str(PYTHON), "-m", "dynhat_runtime", "install-service")
        machine.write(f"/etc/systemd/system/{SERVICE}.d/20-test.conf", DROP_IN)
        machine.run("mkdir", FAULTS)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", SOCKET)
        yield machine


def test_boot(machine: BootedSystemd) -> None:
    machine.run("systemctl", "start", SERVICE)
    print(machine.run("systemctl", "status", SERVICE))
    print(Client(machine, TCP, 2).answers())
    print(Client(machine, UNIX, 2).answers())
    print(machine.journal(SERVICE)[-3:])


class Client:
    """Translations on their way, sent by a process of their own."""

    def __init__(self, machine: BootedSystemd, where: str, number: int = 1, concurrency: int = 1) -> None:
        at = where if where == TCP else str(machine.root / where.lstrip("/"))
        command = [sys.executable, str(CLIENT), at, str(number), str(concurrency)]
        self._process = machine.network(*command, stdout=subprocess.PIPE)

    def answers(self) -> dict[str, int]:
        """How many translations ended how, once all have."""
        answers: dict[str, int] = json.loads(self._process.communicate(timeout=120)[0])
        return answers
