"""Compiles the native decoder beside its sources; run by the package's build, or by hand after changing a source.

    python -m dynhat_runtime.native.build

Needs a C++17 compiler ($CXX, else c++, g++ or clang++) and the standard library of Python only: it runs before anything
is installed. The result works on every processor of this architecture: kernels for newer ones are a second library,
chosen at run time.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "csrc"
REMEDY = "install a C++ compiler and run 'python -m dynhat_runtime.native.build'"

# Contracting a * b + c into one instruction is wanted; anything else that changes results is not.
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-ffp-contract=fast",
    "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One compilation of all sources.

    Attributes:
        name: Part of the file's name.
        flags: Beside those all have.
    """

    name: str
    flags: tuple[str, ...]

    @property
    def file(self) -> Path:
        """Where the library lies."""
        return FOLDER / f"_decoder_{self.name}.so"


BASELINE = Variant("baseline", ())
AVX2 = Variant("avx2", ("-mavx2", "-mfma"))


class BuildError(Exception):
    """There is no compiler, or it failed; the message says which and what it said."""


def variants(machine: str) -> tuple[Variant, ...]:
    """What is compiled for a processor architecture."""
    return (BASELINE, AVX2) if machine in ("x86_64", "AMD64") else (BASELINE,)


def source_hash() -> str:
    """Fingerprint of all sources, kept in the libraries: a library that does not match is not used."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> str:
    """The C++ compiler's command.

    Raises:
        BuildError: There is none.
    """
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise BuildError(f"no C++ compiler found: {REMEDY}")


def build(machine: str = platform.machine(), compiler: str | None = None) -> list[Path]:
    """Compile every variant; returns the libraries.

    Raises:
        BuildError: No compiler, or it failed.
    """
    command = (compiler or find_compiler()).split()
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda variant: _compile(variant, command), variants(machine)))


def _compile(variant: Variant, command: list[str]) -> Path:
    """Compile one variant under another name first, so that whoever loads it meets a whole file."""
    unfinished = variant.file.with_suffix(f".{os.getpid()}")
    stamp = f'-DDYNHAT_SOURCE_HASH="{source_hash()}"'
    arguments = [*command, *FLAGS, *variant.flags, stamp, *map(str, sorted(SOURCES.glob("*.cpp"))), "-o"]
    command_line = [*arguments, str(unfinished)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)  # noqa: S603  # $CXX is its user's
    if done.returncode != 0:
        unfinished.unlink(missing_ok=True)
        raise BuildError(f"{command[0]} failed on the native decoder ({variant.name}): {done.stderr.strip()}")
    unfinished.replace(variant.file)
    return variant.file


def main() -> int:
    """Build, and say where."""
    try:
        for library in build():
            print(library)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
