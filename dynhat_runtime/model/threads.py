"""Which CPUs this process computes on, and with how many threads. Knows no model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

DECODING_THREADS = 1
"""Threads of one decoding. At the shipped sizes a second one gains nothing on an idle machine, and on a busy one
the threads wait for each other at every operator: 20 times slower (`docs/decisions/0003-one-thread.md`)."""


def use_decoding_threads() -> None:
    """Let the calling thread decode as it is served. The native decoder's threads are told with each network."""
    # Where nothing has imported torch yet, nothing here computes with it, and importing it takes seconds.
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(DECODING_THREADS)


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
