"""Dockerfile.l4t really built, with buildah on a Debian base made here: no image registry is asked.

Needs root, buildah, mmdebstrap and the network of package indexes; takes minutes. The base carries this machine's
package sources, so neither it nor the image ever leaves the folder they are made in.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
BASE, IMAGE = "localhost/base:local", "localhost/dynhat:local"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@functools.cache
def why_not() -> str | None:
    """What keeps this machine from building an image; None if nothing does."""
    if os.geteuid() != 0:
        return "not root"
    for command in ("buildah", "mmdebstrap"):
        if shutil.which(command) is None:
            return f"no command {command}: apt-get install buildah mmdebstrap"
    return None if SOURCES.exists() else f"no {SOURCES}"


class ContainerImage:
    """An image in a store of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def build(self) -> str:
        """Make the base and the image; what building said."""
        self._make_base()
        binds = [f"--volume={source}:{target}:ro" for source, target in self._pip_binds()]
        return self.buildah(
            "bud", "--isolation=chroot", "--network=host", "--pull-never", "--layers=false", "--format=docker",
            *binds, f"--build-arg=BASE={BASE}", f"--file={REPOSITORY / 'Dockerfile.l4t'}", f"--tag={IMAGE}",
            str(REPOSITORY),
        )  # fmt: skip

    def remove(self) -> None:
        """Remove everything, several gigabytes."""
        self.buildah("rm", "--all")
        subprocess.run(["umount", "--lazy", str(self._folder / "root/overlay")], check=False)
        shutil.rmtree(self._folder)

    def start(self) -> str:
        """A container of the image; its name."""
        return self.buildah("from", "--pull-never", IMAGE).strip()

    def command(self, container: str, *command: str) -> list[str]:
        """What runs a program in a container, as the image's user."""
        return [*self._buildah, "run", "--isolation=chroot", "--network=host", container, "--", *command]

    def buildah(self, *arguments: str) -> str:
        """Standard output of a buildah command."""
        done = subprocess.run([*self._buildah, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    @property
    def _buildah(self) -> list[str]:
        store = (
            "--storage-driver",
            "overlay",
            "--root",
            str(self._folder / "root"),
            "--runroot",
            str(self._folder / "run"),
        )
        return ["buildah", *store]

    def _make_base(self) -> None:
        """Debian's smallest system, as an image."""
        text = SOURCES.read_text(encoding="utf-8")
        mirror, suite, key = (_first(rf"^{name}: *(\S+)", text) for name in ("URIs", "Suites", "Signed-By"))
        source = f"deb [signed-by={key}] {mirror} {suite} main"
        base = self._folder / "base.tar"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", suite, str(base), source],
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, str(base), "/")
        self.buildah("commit", "--quiet", container, BASE)
        self.buildah("rm", container)

    def _pip_binds(self) -> list[tuple[Path, Path]]:
        """This machine's way to its package index, for the build alone: settings, certificates, folders named there."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
        file = self._folder / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        folders = {Path(path) for path in re.findall(r"(?:file://)?(/[\w./-]+)", " ".join(settings.values()))}
        folders |= {
            path.parent for path in folders if path.name == "simple"
        }  # an index links to its neighbours
        named = {path for path in folders | {CERTIFICATES} if path.exists()}
        return [(file, Path("/etc/pip.conf")), *((path, path) for path in sorted(named))]


def _first(pattern: str, text: str) -> str:
    """What the pattern's group holds where it is found first."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, f"{SOURCES} has no line like {pattern}"
    return found[1]
