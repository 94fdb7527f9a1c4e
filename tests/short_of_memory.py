"""`dynhat` in a process that may hardly grow once its programs are loaded: `short_of_memory.py MIB ARGUMENTS...`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import dynhat_runtime.control_loop
import dynhat_runtime.daemon
import dynhat_runtime.engine
import dynhat_runtime.live_view  # noqa: F401  # with the three above: all that loading a bundle imports
from dynhat_runtime.cli import main

BYTES_PER_MIB = 2**20


def main_with(spare_mib: int) -> None:
    """Allow this much more address space than there is now, then run the command line."""
    num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = num_pages * resource.getpagesize() + spare_mib * BYTES_PER_MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    main()


if __name__ == "__main__":
    spare_mib = int(sys.argv.pop(1))
    main_with(spare_mib)
