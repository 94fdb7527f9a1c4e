"""A reduced design space for people: what is used, what is kept, and how many configurations are left."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dynhat_runtime.offline.reduce_space import GROUPED, Reduction


def print_reduction(reduction: Reduction) -> None:
    """A table for people, and the counts."""
    shown = Table(title=reduction.reduced.name)
    for heading in ("dimension", "choice", "used", ""):
        shown.add_column(heading, justify="right" if heading in ("choice", "used") else "left", no_wrap=True)
    before = None
    for dimension, *cells in _rows(reduction):
        shown.add_row("" if dimension == before else dimension, *cells)
        before = dimension
    Console().print(shown)
    deciding = reduction.deciding
    print(
        f"{len(deciding.points)} point{'' if len(deciding.points) == 1 else 's'} ({deciding.rule}"
        + (f" of {deciding.device}" if deciding.device else "")
        + f"); {deciding.num_left_out} others of the device left out; every layer counts once"
    )
    for when, space in (("before", reduction.original), ("after", reduction.reduced)):
        number = space.num_configurations()
        mantissa, exponent = f"{number:.1e}".split("e")
        print(f"configurations {when}: {number} ({mantissa}e{int(exponent)}) in {space.name}")


def _rows(reduction: Reduction) -> Sequence[tuple[str, str, str, str]]:
    """Dimension, choice, times used and verdict, for people."""
    rows = []
    for dimension in GROUPED:
        kept = reduction.kept(dimension)
        for choice, count in reduction.usage[dimension.name].items():
            verdict = "dropped" if choice not in kept else "kept" if count else "kept (depths stay whole)"
            rows.append((dimension.name, str(choice), str(count), verdict))
    return rows
