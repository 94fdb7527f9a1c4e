"""Which CPUs this process computes on. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Iterable


def move_threads_to(cpus: Iterable[int]) -> None:
    """Move every thread of this process onto `cpus`.

    Affinity set from outside by process id reaches the main thread only; the others, torch's among them, would
    go on where they were started.
    """
    wanted = set(cpus)
    for thread_id in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread_id), wanted)
        except ProcessLookupError:
            continue  # ended meanwhile
