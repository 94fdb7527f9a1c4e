"""run.sh and .ci/run: sound shell, clear words, and no environment built for nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """run.sh and what it reads, in a folder without an environment."""
    for name in ("run.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a folder's run.sh from elsewhere."""
    return subprocess.run(
        [str(folder / "run.sh"), *args],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", ["run.sh", ".ci/run"])
def test_shell_syntax(script: str) -> None:
    """The script can be run, and bash can read it to its end."""
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0


def test_help(copy: Path) -> None:
    """Help names every command and builds nothing."""
    done = run(copy, "help")
    assert done.returncode == 0
    for command in ("serve", "test", "check", "bench"):
        assert f"\n  {command} " in done.stdout
    assert not (copy / ".venv").exists()


def test_unknown_command(copy: Path) -> None:
    """An unknown command is refused by its name, and builds nothing."""
    done = run(copy, "srve")
    assert done.returncode == 2
    assert "no command 'srve'" in done.stderr
    assert not (copy / ".venv").exists()


def test_python_that_is_not_there(copy: Path) -> None:
    """A Python that cannot be found is named, with what to do."""
    done = run(copy, "test", DYNHAT_PYTHON="/no/such/python")
    assert done.returncode == 2
    assert "/no/such/python not found" in done.stderr


def test_python_too_old(copy: Path) -> None:
    """A Python older than 3.10 is named with its version, and no environment is built with it."""
    old = copy / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.10" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = run(copy, "test", DYNHAT_PYTHON=str(old))
    assert done.returncode == 2
    assert "Python 3.8.10 is too old" in done.stderr
    assert not (copy / ".venv").exists()


def test_an_interrupted_installation_is_not_taken_for_done(copy: Path) -> None:
    """When installing fails, the next call installs again: no stamp is left."""
    python = copy / "python"
    python.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2" = "-m venv" ] || exec python3 "$@"\n'
        f'mkdir -p "{copy}/.venv/bin" && printf "#!/bin/sh\\nexit 1\\n" >"{copy}/.venv/bin/python"\n'
        f'chmod +x "{copy}/.venv/bin/python"\n'
    )
    python.chmod(0o755)
    for _ in range(2):
        done = run(copy, "serve", DYNHAT_PYTHON=str(python))
        assert done.returncode == 1
        assert "installing into" in done.stderr
    assert not list((copy / ".venv").glob("*.stamp"))
