"""Tests of dynhat_runtime.service_units and `dynhat install-service`: files for this machine, into a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dynhat_runtime import service_units
from dynhat_runtime.cli import app
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.service_units import (
    Machine,
    Wishes,
    check_reachable,
    service_files,
    write_service_files,
)
from dynhat_runtime.settings import load_settings

BOARD = Machine(("/opt/dynhat/bin/python", "-m", "dynhat_runtime"), {"video", "audio"}, (Path("/usr"),))
DROP_IN = "etc/systemd/system/dynhat.service.d/10-this-machine.conf"


def text_of(files: list[service_units.ServiceFile], path: str) -> str:
    """The file meant for this path."""
    return next(file.text for file in files if file.path == path)


def test_the_units_are_the_shipped_ones() -> None:
    """Units are written as they are shipped; what this machine has lies beside them."""
    files = service_files(BOARD, Wishes())
    shipped = Path(__file__).parent.parent / "systemd"
    for name in ("dynhat.service", "dynhat.socket"):
        assert text_of(files, f"etc/systemd/system/{name}") == (shipped / name).read_text()
    assert text_of(files, DROP_IN).splitlines()[1:] == [
        "[Service]", "ExecStart=", "ExecStart=/opt/dynhat/bin/python -m dynhat_runtime serve",
        "SupplementaryGroups=video",
    ]  # fmt: skip


def test_a_bundle_and_odd_paths() -> None:
    """A bundle is served from where it is, its path taken literally whatever is in it."""
    machine = Machine(("/opt/a b/100%/python$",), set(), ())
    assert 'ExecStart="/opt/a b/100%%/python$$" serve --bundle /usr' in text_of(
        service_files(machine, Wishes(bundle=Path("/usr"))), DROP_IN
    )


def test_no_group_that_is_not_there() -> None:
    """A group this machine lacks would keep the service from starting: it is not named."""
    assert "SupplementaryGroups" not in text_of(
        service_files(Machine(("dynhat",), set(), ()), Wishes()), DROP_IN
    )


def test_jtop_is_asked_for() -> None:
    """The jtop group, as good as root, is joined on demand alone, and then its service is kept alive."""
    machine = Machine(("dynhat",), {"video", "render", "jtop"}, ())
    assert "jtop" not in text_of(service_files(machine, Wishes()), DROP_IN)
    files = service_files(machine, Wishes(with_jtop=True))
    assert "SupplementaryGroups=video render jtop" in text_of(files, DROP_IN)
    assert "Restart=always" in text_of(files, "etc/systemd/system/jtop.service.d/10-restart.conf")


def test_jtop_that_is_not_installed() -> None:
    """Asked for where it is not installed, the group is named."""
    with pytest.raises(SettingsError, match="no group jtop: install jetson-stats"):
        service_files(BOARD, Wishes(with_jtop=True))


def test_keys_are_a_credential(tmp_path: Path) -> None:
    """systemd reads the key file and the daemon its copy; a file that is not there is named before systemd trips."""
    file = tmp_path / "keys.toml"
    with pytest.raises(SettingsError, match=r"keys\.toml is not a file: write it first"):
        service_files(BOARD, Wishes(key_file=file))
    file.touch()
    lines = text_of(service_files(BOARD, Wishes(key_file=file)), DROP_IN).splitlines()
    assert f"LoadCredential=keys.toml:{file}" in lines
    assert lines[3].endswith(" serve --key-file ${CREDENTIALS_DIRECTORY}/keys.toml")


def test_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program or bundle that the sandboxed daemon could not read is refused, with what is in the way."""
    closed = tmp_path / "closed"
    (closed / "bundle").mkdir(parents=True)
    tmp_path.chmod(0o755)
    closed.chmod(0o700)
    monkeypatch.setattr(service_units, "HIDDEN_FOLDERS", (tmp_path / "home",))
    with pytest.raises(
        SettingsError, match=r"home/x lies below .*/home, which the service does not see: install"
    ):
        check_reachable(tmp_path / "home/x")
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 0o001:
            return  # pytest's own folder is closed already
    with pytest.raises(SettingsError, match=r"bundle lies below .*/closed, which only its owner may enter"):
        service_files(BOARD, Wishes(bundle=closed / "bundle"))


def test_what_was_changed_by_hand_stays(tmp_path: Path) -> None:
    """Written again, units are replaced, and settings of the operator's are not."""
    files = service_files(BOARD, Wishes())
    assert len(write_service_files(tmp_path, files)) == 5
    settings, unit = tmp_path / "etc/dynhat/dynhat.toml", tmp_path / "etc/systemd/system/dynhat.service"
    settings.write_text("beam_size = 2\n")
    unit.write_text("old")
    assert len(write_service_files(tmp_path, files)) == 3
    assert settings.read_text() == "beam_size = 2\n"
    assert unit.read_text().startswith("# The translation daemon")
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_the_example_is_a_settings_file(tmp_path: Path) -> None:
    """Every line of the example settings is taken, those that are comments too once they are none."""
    text = service_units.shipped_file("dynhat.toml")
    file = tmp_path / "dynhat.toml"
    file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert load_settings(file).drain_timeout_s == 30


def test_time_to_drain() -> None:
    """systemd waits longer for a stop than the daemon drains, the closing of connections included."""
    seconds = re.search(r"^TimeoutStopSec=(\d+)$", service_units.shipped_file("dynhat.service"), re.MULTILINE)
    assert seconds is not None
    assert int(seconds[1]) > load_settings().drain_timeout_s + 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_the_right_to_write() -> None:
    """Without the right to write it says to run it as root."""
    with pytest.raises(SettingsError, match=r"Permission denied.*run this as root"):
        write_service_files(Path("/"), service_files(BOARD, Wishes()))


def test_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run prints every file with its path and writes none."""
    monkeypatch.setattr(Machine, "this", classmethod(lambda _: BOARD))
    done = CliRunner().invoke(app, ["install-service", "--dry-run", "--root", str(tmp_path)])
    assert done.exit_code == 0
    assert f"# --- {tmp_path}/etc/systemd/system/dynhat.socket\n" in done.stdout
    assert f"# --- {tmp_path}/etc/dynhat/dynhat.toml (only if there is none)\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command names what it wrote and what comes next."""
    monkeypatch.setattr(Machine, "this", classmethod(lambda _: BOARD))
    done = CliRunner().invoke(app, ["install-service", "--root", str(tmp_path)])
    assert done.exit_code == 0
    assert f"wrote {tmp_path}/{DROP_IN}" in done.stdout
    assert "systemctl enable --now dynhat.socket dynhat.service" in done.stdout
    assert (tmp_path / DROP_IN).exists()
