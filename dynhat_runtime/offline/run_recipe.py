"""The recipe that a command line asks for: a file's, for one operating point alone, with another budget.

Trains nothing; `dynhat train` and `dynhat export` with the same options get the same recipe.
"""

from __future__ import annotations

from pathlib import Path

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, SettingsError
from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
from dynhat_runtime.offline.point_files import points_from_any
from dynhat_runtime.offline.point_selection import point_called
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.searched_points import read_searched_points


def recipe_to_run(
    path: Path,
    *,
    point_id: str | None = None,
    bundle: Path | None = None,
    points_file: Path | None = None,
    max_updates: int | None = None,
) -> Recipe:
    """The recipe in a file, changed as asked.

    Args:
        path: The recipe.
        point_id: Operating point to train alone.
        bundle: Bundle that has the point; without it the shipped one.
        points_file: Any file of points that has it instead.
        max_updates: Updates to train instead of the recipe's.

    Raises:
        DynhatError: What is wrong with the recipe, or with the point and where it should be.
    """
    recipe = Recipe.load(path)
    if point_id is not None:
        config = _config_of(point_id, bundle, points_file, recipe.model.space)
        try:
            recipe = recipe.for_one(point_id, config)
        except DesignSpaceError as error:
            raise SettingsError(f"{path}: cannot train point {point_id!r}: {error}") from error
    elif bundle is not None or points_file is not None:
        given = f"--bundle {bundle}" if bundle is not None else f"--points {points_file}"
        raise SettingsError(f"{given} says where a point is: say which with --subtransformer")
    return recipe if max_updates is None else recipe.with_budget(max_updates)


def _config_of(
    point_id: str, bundle: Path | None, points_file: Path | None, space: DesignSpace
) -> SubTransformerConfig:
    """The architecture of one point.

    Raises:
        DynhatError: The file or bundle cannot be read, or has no such point; the message lists those there are.
    """
    if points_file is None:
        return point_called(Bundle.open(bundle or shipped_bundle_path()).table(), point_id).config
    if bundle is not None:
        raise SettingsError(f"--bundle {bundle} and --points {points_file}: give one of them")
    configs = (
        # Of a list for several spaces only the point itself has to lie in the recipe's.
        {point.id: point.config for point in read_searched_points(points_file).points}
        if points_file.suffix == ".json"
        else {point.id: point.config for point in points_from_any(points_file, space)}
    )
    if point_id not in configs:
        raise SettingsError(f"{points_file}: has no point {point_id!r}: choose one of {', '.join(configs)}")
    return configs[point_id]
