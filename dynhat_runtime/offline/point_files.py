"""Points to measure, from any file that lists some: TOML by hand, published or searched points in JSON, HAT's YAML.

Measures nothing. The ending decides how a file is read; a point outside the design space is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, SettingsError, first_complaint
from dynhat_runtime.model.checkpoint import PAPER_POINTS, TABLES, Bundle, shipped_bundle_path
from dynhat_runtime.offline.import_hat import config_from_hat_yaml
from dynhat_runtime.offline.paper_points import DEFAULT_SOURCE, PaperPoints
from dynhat_runtime.offline.profile import PointQuality, PointToMeasure, points_of_table
from dynhat_runtime.offline.recipe import FixedRecipe, read_toml
from dynhat_runtime.offline.searched_points import read_searched_points, slug
from dynhat_runtime.offline.whole_files import write_text
from dynhat_runtime.operating_point import OperatingPointTable, PointId, Precision

YAML_ENDINGS = (".yml", ".yaml")


class NamedConfig(BaseModel):
    """A point chosen by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: PointId
    num_decoder_layers: Annotated[int, Field(gt=0)]
    encoder_embed_dim: int
    encoder_ffn_dim: int
    decoder_embed_dim: int
    decoder_ffn_dim: int
    num_heads: int
    cross_attention_span: int = 1
    precision: Precision = "fp32"
    num_threads: Annotated[int, Field(ge=1, le=64)] = 1
    has_shortlist: bool = False

    def config(self, space: DesignSpace) -> SubTransformerConfig:
        """The architecture, alike in every layer.

        Raises:
            DesignSpaceError: A value is not a choice of `space`.
        """
        num_encoder, num_decoder = space.max_encoder_layers, self.num_decoder_layers
        return space.check(
            SubTransformerConfig(
                encoder_embed_dim=self.encoder_embed_dim,
                encoder_ffn_dims=(self.encoder_ffn_dim,) * num_encoder,
                encoder_attention_heads=(self.num_heads,) * num_encoder,
                decoder_embed_dim=self.decoder_embed_dim,
                decoder_ffn_dims=(self.decoder_ffn_dim,) * num_decoder,
                decoder_attention_heads=(self.num_heads,) * num_decoder,
                cross_attention_heads=(self.num_heads,) * num_decoder,
                cross_attention_spans=(self.cross_attention_span,) * num_decoder,
            )
        )


class _PointList(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    points: tuple[NamedConfig, ...] = Field(min_length=1)


def points_from_any(path: Path, space: DesignSpace, device: str | None = None) -> list[PointToMeasure]:
    """The points of a file; of a JSON file those of `device`, without it all.

    Raises:
        SettingsError: The file lists no points, or one lies outside the design space, or `device` has none.
    """
    if path.suffix == ".json":
        searched = read_searched_points(path)
        chosen = searched.points if device is None else searched.of_device(device)
        return [checked_point(path, point.id, point.config, space) for point in chosen]
    if device is not None:
        raise SettingsError(f"--device {device} needs a file of published points (.json), not {path.name}")
    if path.suffix in YAML_ENDINGS:
        return [checked_point(path, slug(path.stem), config_from_hat_yaml(path), space)]
    return points_from_file(path, space)


def points_from_file(path: Path, space: DesignSpace) -> list[PointToMeasure]:
    """Points chosen by hand in a TOML file of `[[points]]`.

    Raises:
        SettingsError: The file is not such a list, or a point lies outside the design space.
    """
    try:
        listed = _PointList.model_validate(read_toml(path))
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_complaint(error)}") from error
    points: list[PointToMeasure] = []
    for point in listed.points:
        if any(point.id == other.id for other in points):
            raise SettingsError(f"{path}: point id {point.id!r} repeats: give each point its own")
        try:
            points.append(
                PointToMeasure(
                    point.id,
                    point.config(space),
                    PointQuality(),
                    point.precision,
                    point.num_threads,
                    point.has_shortlist,
                )
            )
        except DesignSpaceError as error:
            raise SettingsError(f"{path}: point {point.id!r}: {error}") from error
    return points


def points_of_bundle(bundle: Bundle) -> list[PointToMeasure]:
    """The points of a bundle's table; without one, of a bundle trained for one operating point, that point.

    Raises:
        BundleError: There are none.
    """
    fixed = bundle.training_record().get("recipe", {}).get("sampling", {}).get("fixed")
    if fixed and not any(name.startswith(f"{TABLES}/") for name in bundle.manifest.files):
        point = FixedRecipe.model_validate(fixed)
        return [PointToMeasure(point.id, bundle.design_space.check(point.config), PointQuality())]
    return points_of_table(bundle.table())


def table_ii_points(space: DesignSpace, path: Path | None = None) -> list[PointToMeasure]:
    """The points of the paper's Table II, from the published points that are shipped or from `path`.

    A space that does not hold them all has its smallest and its largest architecture instead.

    Raises:
        SettingsError: `path` is no such file, or has points outside the design space.
    """
    file = path or shipped_bundle_path("wmt14-en-de") / PAPER_POINTS
    chosen = [point for point in PaperPoints.load(file).points if point.source == DEFAULT_SOURCE]
    if path is not None and not chosen:
        raise SettingsError(f"{path}: has no points of {DEFAULT_SOURCE!r}: choose a device with --device")
    try:
        return [checked_point(file, point.id, point.config, space) for point in chosen]
    except SettingsError:
        if path is not None:
            raise
        ends = {"smallest": space.smallest(), "largest": space.largest()}
        return [PointToMeasure(name, config, PointQuality()) for name, config in ends.items()]


def checked_point(
    path: Path, point_id: str, config: SubTransformerConfig, space: DesignSpace
) -> PointToMeasure:
    """A point of a file.

    Raises:
        SettingsError: Its architecture lies outside the design space.
    """
    try:
        return PointToMeasure(point_id, space.check(config), PointQuality())
    except DesignSpaceError as error:
        raise SettingsError(f"{path}: point {point_id!r}: {error}") from error


def put_table(bundle: Bundle, table: OperatingPointTable, out: Path | None) -> Path:
    """Write a measured table to the file `--out` named, or into the bundle; returns where.

    Raises:
        DynhatError: It cannot be written.
    """
    if out is None:
        return bundle.with_table(table).path
    write_text(out, table.as_json(), "--out")
    return out
