"""`dynhat reduce-space`: the design space that a device's searched points use (the paper's step 5 and section IV-C).

Counts which choices the points take of each dimension and drops those that none takes. Searches, trains and
measures nothing; what is trained on the reduced space follows from a recipe that names it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from dynhat_runtime.design_space import DesignSpace, choices_of
from dynhat_runtime.errors import DesignSpaceError, SettingsError, first_complaint
from dynhat_runtime.offline.recipe import Recipe, read_toml, recipe_toml
from dynhat_runtime.offline.searched_points import TASK_SPACES, SearchedPoint, SearchedPoints

DEFAULT_SPACE = "paper-wmt14-ende"
"""Original space of a file that names none: both published lists are of it, or of one with its choices."""
TABLE_II, ALL_POINTS = "the operating points of Table II", "all points"


class Dimension(NamedTuple):
    """Fields of a `DesignSpace` whose choices are taken together, and whether unused ones are dropped."""

    name: str
    fields: tuple[str, ...]
    is_reduced: bool


GROUPED = (
    Dimension("embed_dim", ("encoder_embed_dim", "decoder_embed_dim"), True),
    Dimension("ffn_dim", ("encoder_ffn_dim", "decoder_ffn_dim"), True),
    Dimension(
        "attention_heads",
        ("encoder_attention_heads", "decoder_attention_heads", "cross_attention_heads"),
        True,
    ),
    Dimension("cross_attention_span", ("cross_attention_span",), True),
    Dimension("encoder_num_layers", ("encoder_num_layers",), False),
    Dimension("decoder_num_layers", ("decoder_num_layers",), False),
)
"""The dimensions as the paper lists them."""


@dataclass(frozen=True, slots=True)
class DecidingPoints:
    """The points whose choices are kept.

    Attributes:
        device: Slug of the device they are for, where the file says so.
        rule: Which points of the device they are.
        num_left_out: The device's other points in the file.
    """

    points: tuple[SearchedPoint, ...]
    device: str | None
    rule: str
    num_left_out: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """The reduced space, and what it follows from.

    Attributes:
        usage: Per dimension, how often each choice of the original space is taken; every layer counts once.
    """

    original: DesignSpace
    reduced: DesignSpace
    deciding: DecidingPoints
    usage: dict[str, dict[int, int]]

    def kept(self, dimension: Dimension) -> tuple[int, ...]:
        """Choices of the dimension that any of its fields keeps, in the original order."""
        left = {choice for field in dimension.fields for choice in getattr(self.reduced, field)}
        return tuple(choice for choice in self.usage[dimension.name] if choice in left)

    def as_json(self) -> dict[str, Any]:
        """The answer of `--json`; counts are exact."""
        return {
            "design_space": self.reduced.model_dump(mode="json"),
            "num_configurations_before": self.original.num_configurations(),
            "num_configurations_after": self.reduced.num_configurations(),
            "original_design_space": self.original.name,
            "device": self.deciding.device,
            "deciding_points": self.deciding.rule,
            "num_points": len(self.deciding.points),
            "num_points_left_out": self.deciding.num_left_out,
            "usage": {
                name: {str(choice): count for choice, count in counts.items()}
                for name, counts in self.usage.items()
            },
            "dropped": {
                dimension.name: [
                    choice for choice in self.usage[dimension.name] if choice not in self.kept(dimension)
                ]
                for dimension in GROUPED
            },
        }


def deciding_points(searched: SearchedPoints, space: DesignSpace, device: str | None) -> DecidingPoints:
    """Choose the points whose choices are kept.

    Rules: (1) points of another task than the space's own do not count. (2) Of each device, the operating points
    of the paper's Table II decide where there are any, otherwise all its points. (3) Without `device` those that
    decide must be of one device.

    Raises:
        SettingsError: The device is unknown, or several are left and none is named; the message lists them.
    """
    task = next((task for task, spaces in TASK_SPACES.items() if space.name in spaces), None)
    of_task = tuple(point for point in searched.points if task is None or point.task in (None, task))
    if not of_task:
        tasks = sorted({str(point.task) for point in searched.points})
        raise SettingsError(
            f"no points for the task of design space {space.name!r}: the file's are of {', '.join(tasks)}; "
            "choose a space of theirs with --space"
        )
    candidates = of_task if device is None else SearchedPoints(of_task).of_device(device)
    marked = {point.device for point in candidates if point.is_of_table_ii}
    chosen = tuple(point for point in candidates if point.is_of_table_ii or point.device not in marked)
    devices = SearchedPoints(chosen).devices
    if len(devices) > 1:
        raise SettingsError(
            f"the points are of {len(devices)} devices: choose one with --device: {', '.join(devices)}"
        )
    return DecidingPoints(
        points=chosen,
        device=devices[0] if devices else None,
        rule=TABLE_II if marked else ALL_POINTS,
        num_left_out=len(candidates) - len(chosen),
    )


def reduce_space(space: DesignSpace, deciding: DecidingPoints, name: str | None = None) -> Reduction:
    """Keep of `space` what the points use.

    Rules: (1) embedding widths are one dimension of encoder and decoder together, as the paper lists them; so are
    the feed-forward widths of all layers, and the heads of all three kinds of attention. (2) A choice that some
    point takes somewhere in its dimension is kept wherever the original space offers it, in the original order.
    (3) Depths are kept whole: the decoder's is what spans the latency range, so that a reduced space can still
    follow the resources between and beyond the points; the encoder's costs little latency, and HAT fixes it.

    Args:
        space: The original space.
        deciding: The points.
        name: Of the reduced space; without it the original's, "-reduced" and the device.

    Raises:
        SettingsError: A point lies outside `space`.
    """
    usage: dict[str, dict[int, int]] = {}
    taken = [choices_of(_checked(point, space).config) for point in deciding.points]
    for dimension in GROUPED:
        counts = Counter(
            choice for choices in taken for field in dimension.fields for choice in choices[field]
        )
        offered = dict.fromkeys(choice for field in dimension.fields for choice in getattr(space, field))
        usage[dimension.name] = {choice: counts[choice] for choice in offered}
    kept = {
        field: [choice for choice, count in usage[dimension.name].items() if count]
        for dimension in GROUPED
        if dimension.is_reduced
        for field in dimension.fields
    }
    suffix = "-reduced" if deciding.device is None else f"-reduced-{deciding.device}"
    return Reduction(space, space.narrowed_to(kept, name or space.name + suffix), deciding, usage)


def _checked(point: SearchedPoint, space: DesignSpace) -> SearchedPoint:
    try:
        space.check(point.config)
    except DesignSpaceError as error:
        raise SettingsError(f"point {point.id!r}: {error}, or name the points' space with --space") from error
    return point


def recipe_with_space(recipe: Path, space: DesignSpace) -> str:
    """The recipe in a file with another design space in it, as TOML; all other fields stay, comments do not.

    Raises:
        TrainingError: The file is no recipe.
        SettingsError: What the recipe trains by name (anchors, a fixed architecture) is not in the space.
    """
    before = Recipe.load(recipe)
    tables = read_toml(recipe)
    tables["model"]["design_space"] = space.model_dump(mode="json")
    try:
        Recipe.model_validate(tables)
    except (DesignSpaceError, ValidationError) as error:
        reason = first_complaint(error) if isinstance(error, ValidationError) else str(error)
        raise SettingsError(
            f"{recipe}: does not fit the reduced space: {reason}: change [sampling] there"
        ) from error
    note = (
        f"# {recipe.name} with design space {before.model.space.name!r} reduced to {space.name!r}\n"
        f"# by 'dynhat reduce-space': {space.num_configurations()} configurations.\n"
    )
    return note + "\n" + recipe_toml(tables)
