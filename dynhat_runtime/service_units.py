"""The systemd units written for this machine: `dynhat install-service`. Starts, stops and enables nothing.

The units are the files of `systemd/` as they are; what this machine has elsewhere or in addition goes into a drop-in,
so that an upgrade can replace the units and leave the drop-in alone.
"""

from __future__ import annotations

import grp
import os
import stat
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynhat_runtime.errors import SettingsError

UNIT_FOLDER = "etc/systemd/system"
SETTINGS_FOLDER = "etc/dynhat"
DROP_IN = f"{UNIT_FOLDER}/dynhat.service.d/10-this-machine.conf"

GPU_GROUPS = ("video", "render")
"""Own a GPU's device nodes."""
JTOP_GROUP = "jtop"
KEYS = "keys.toml"
"""The key file's name among the daemon's credentials."""
HIDDEN_FOLDERS = (Path("/home"), Path("/root"), Path("/run/user"))
"""ProtectHome= hides these from the daemon."""


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """One file to be written.

    Attributes:
        path: Relative to the root folder.
        is_kept: One that is there already stays: its owner may have changed it.
    """

    path: str
    text: str
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What of this machine goes into the drop-in."""

    program: Sequence[str]
    """Starts `dynhat`."""
    groups: Collection[str]
    """Groups there are."""
    paths: Sequence[Path]
    """Where program and package lie."""

    @classmethod
    def this(cls) -> Machine:
        """The one we run on, with the Python that runs us."""
        return cls(
            program=(sys.executable, "-m", "dynhat_runtime"),
            groups=frozenset(group.gr_name for group in grp.getgrall()),
            paths=(Path(sys.executable), Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent),
        )


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator wants of the service.

    Attributes:
        bundle: Served instead of the shipped one.
        key_file: API keys. systemd reads it as root and hands the daemon a copy, so that nobody else need read it.
        with_jtop: Let the daemon ask the jtop service. Its group can set power mode and fan: as good as root.
    """

    bundle: Path | None = None
    key_file: Path | None = None
    with_jtop: bool = False


def service_files(machine: Machine, wishes: Wishes) -> list[ServiceFile]:
    """All files, units first.

    Raises:
        SettingsError: The daemon, which has no privileges, would not reach what it needs.
    """
    for path in (*machine.paths, *(() if wishes.bundle is None else (wishes.bundle,))):
        check_reachable(path)
    if wishes.key_file is not None and not wishes.key_file.is_file():
        raise SettingsError(
            f"key file {wishes.key_file} is not a file: write it first, readable to root alone"
        )
    if wishes.with_jtop and JTOP_GROUP not in machine.groups:
        raise SettingsError("there is no group jtop: install jetson-stats first, or leave out --jtop")
    files = [
        ServiceFile(f"{UNIT_FOLDER}/{name}", shipped_file(name))
        for name in ("dynhat.service", "dynhat.socket")
    ]
    files.append(ServiceFile(DROP_IN, _drop_in(machine, wishes)))
    if wishes.with_jtop:
        path = f"{UNIT_FOLDER}/jtop.service.d/10-restart.conf"
        files.append(ServiceFile(path, shipped_file("jtop-restart.conf")))
    files += [
        ServiceFile(f"{SETTINGS_FOLDER}/{name}", shipped_file(name), is_kept=True)
        for name in ("dynhat.toml", "dynhat.env")
    ]
    return files


def shipped_file(name: str) -> str:
    """A file of `systemd/`, installed or in a working copy."""
    package = Path(__file__).resolve().parent
    installed = package / "systemd" / name
    found = installed if installed.exists() else package.parent / "systemd" / name
    return found.read_text(encoding="utf-8")


def _drop_in(machine: Machine, wishes: Wishes) -> str:
    """What differs here from the unit as it is shipped."""
    command = [_quoted(word) for word in (*machine.program, "serve")]
    if wishes.bundle is not None:
        command += ["--bundle", _quoted(str(wishes.bundle.resolve()))]
    if wishes.key_file is not None:
        command += ["--key-file", f"${{CREDENTIALS_DIRECTORY}}/{KEYS}"]
    groups = [group for group in GPU_GROUPS if group in machine.groups]
    if wishes.with_jtop:
        groups.append(JTOP_GROUP)
    lines = [
        "# Written by `dynhat install-service`, which replaces it. Changes of your own: systemctl edit dynhat.service",
        "[Service]",
        "ExecStart=",
        f"ExecStart={' '.join(command)}",
    ]
    if wishes.key_file is not None:
        lines.append(f"LoadCredential={KEYS}:{_quoted(str(wishes.key_file.resolve()))}")
    if groups:
        lines.append(f"SupplementaryGroups={' '.join(groups)}")
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    """A word of ExecStart=, taken literally."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or any(map(str.isspace, word)) else word


# Rules, for every path the daemon reads:
#   1  it is not below a folder that ProtectHome= hides;
#   2  others than its owner may enter every folder above it, since DynamicUser= is nobody in particular.
def check_reachable(path: Path) -> None:
    """Refuse a path that the daemon could not read.

    Raises:
        SettingsError: Naming the path, what is in the way and what to do.
    """
    resolved = path.resolve()
    remedy = "install into a folder of the system, such as /opt/dynhat (python3 -m venv /opt/dynhat)"
    for hidden in HIDDEN_FOLDERS:
        if resolved.is_relative_to(hidden):
            raise SettingsError(f"{path} lies below {hidden}, which the service does not see: {remedy}")
    for folder in reversed(resolved.parents):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            raise SettingsError(f"{path} lies below {folder}, which only its owner may enter: {remedy}")


def write_service_files(root: Path, files: Sequence[ServiceFile]) -> list[Path]:
    """Write `files` below `root`, each whole or not at all; those written, in order.

    Raises:
        SettingsError: A file cannot be written.
    """
    written = []
    for file in files:
        path = root / file.path
        if file.is_kept and path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.new")
            draft.write_text(file.text, encoding="utf-8")
            draft.chmod(0o644)
            os.replace(draft, path)
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be written ({error.strerror}): run this as root, or look at it with --dry-run"
            ) from error
        written.append(path)
    return written
