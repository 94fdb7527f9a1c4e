"""Tests of dynhat_runtime.resource_snapshot: what follows from the fields."""

from __future__ import annotations

import pytest

from dynhat_runtime.resource_snapshot import ResourceSnapshot


@pytest.mark.parametrize(
    ("usable", "online", "quota", "effective"),
    [
        ((0, 1, 2, 3), None, None, 4.0),
        ((0, 1, 2, 3), (0, 1), None, 2.0),
        ((2, 3), (0, 1, 2), None, 1.0),
        ((2, 3), (0, 1, 2), 0.5, 0.5),
        ((0, 1), (0, 1, 2, 3), 4.0, 2.0),
        (None, (0, 1, 2), None, 3.0),
        (None, (0, 1, 2), 1.5, 1.5),
        (None, None, 1.5, 1.5),
        (None, None, None, None),
    ],
)
def test_effective_cpus(
    usable: tuple[int, ...] | None,
    online: tuple[int, ...] | None,
    quota: float | None,
    effective: float | None,
) -> None:
    """Usable CPUs that are online, bounded by the quota; what is not known bounds nothing."""
    snapshot = ResourceSnapshot(
        monotonic_s=0.0, source="host", usable_cpus=usable, online_cpus=online, cpu_quota_cpus=quota
    )
    assert snapshot.effective_cpus == effective


def test_lists_that_contradict_each_other_leave_the_affinity() -> None:
    """A process runs on some CPU: where none of its CPUs is said to be online, that list is not ours."""
    snapshot = ResourceSnapshot(monotonic_s=0.0, source="host", usable_cpus=(4, 5), online_cpus=(0, 1))
    assert snapshot.effective_cpus == 2.0
