"""An operating point: an architecture, and how it computes, with numbers measured on a named device; and the table.

The table is what the daemon lives on. Everything in it was measured; a figure nobody measured is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import (
    BundleError,
    DesignSpaceError,
    SettingsError,
    UnknownOperatingPointError,
    first_complaint,
)

Precision = Literal["fp32", "int8"]
"""How the matrices of a served network are kept; int8 needs the native decoder on a CPU."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

PointId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LatencyMeasurement(BaseModel):
    """Time of one sentence on one point, at one length, number of CPUs and of busy neighbours.

    The decoder is forced to `num_tgt_tokens` steps, so that the figure does not depend on what is said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cpus: Annotated[int, Field(gt=0)]
    num_busy_neighbours: Annotated[int, Field(ge=0)] = 0
    """Other processes that kept those CPUs busy meanwhile, as a device's other work does."""
    num_src_tokens: Annotated[int, Field(gt=0)]
    num_tgt_tokens: Annotated[int, Field(gt=0)]
    encoder_ms: Positive
    decoder_ms: Positive
    total_ms: Positive
    std_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    num_runs: Annotated[int, Field(gt=0)]


class HasPrecision(Protocol):
    """An operating point, measured or to be."""

    @property
    def precision(self) -> Precision:
        """How its matrices are kept."""


def precisions_of(points: Iterable[HasPrecision]) -> tuple[Precision, ...]:
    """Those that some point has, in the points' order."""
    return tuple(dict.fromkeys(point.precision for point in points))


class OperatingPoint(BaseModel):
    """An architecture at a precision and number of threads, with what was measured of it: latency and quality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: PointId
    config: SubTransformerConfig
    precision: Precision = "fp32"
    num_threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads that share each of its matrix products."""
    has_shortlist: bool = False
    """Whether it says only what is on a sentence's vocabulary shortlist. Its dev loss is the whole vocabulary's."""
    num_parameters: Annotated[int, Field(gt=0)]
    """Weights without embeddings (HAT's count)."""
    latencies: Annotated[tuple[LatencyMeasurement, ...], Field(min_length=1)]
    dev_loss: Positive | None = None
    """Label-smoothed cross-entropy per target token on the dev set, natural log."""
    bleu: Annotated[float, Field(ge=0, le=100)] | None = None
    bleu_signature: str | None = None
    """sacreBLEU's signature and the test set; reproduces `bleu`."""
    chrf: Annotated[float, Field(ge=0, le=100)] | None = None
    chrf_signature: str | None = None
    """Likewise for `chrf`."""


class DeviceDescription(BaseModel):
    """Where and how a table was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    machine: str
    """Processor architecture as the kernel names it, such as aarch64."""
    num_cpus: Annotated[int, Field(gt=0)]
    cpu_max_frequency_hz: Positive | None = None
    gpu_max_frequency_hz: Positive | None = None
    """Of the GPU that the model ran on; None where it ran on the CPUs."""
    torch_version: str
    beam_size: Annotated[int, Field(gt=0)]
    measured_at: str
    """UTC, ISO 8601."""

    @model_validator(mode="before")
    @classmethod
    def _without_the_precision_of_all(cls, fields: Any) -> Any:
        """Tables from before points had a precision of their own name here that of all: fp32."""
        if isinstance(fields, dict):
            return {name: value for name, value in fields.items() if name != "precision"}
        return fields


class OperatingPointTable(BaseModel):
    """Operating points of one bundle on one device, fastest first.

    Order is by latency at the largest measured number of CPUs and the reference length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceDescription
    design_space: str
    weights_sha256: str
    """Of the SuperTransformer these figures belong to."""
    shortlist_sha256: str | None = None
    """Of the vocabulary shortlist; None where no point has one."""
    reference_num_tokens: Annotated[int, Field(gt=0)] = 30
    """Source and target length at which points are ordered and compared with a budget."""
    default_latency_budget_ms: Positive
    points: Annotated[tuple[OperatingPoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ordered_and_distinct(self) -> OperatingPointTable:
        """Ids are distinct and points are ordered fastest first."""
        ids = [point.id for point in self.points]
        if len(set(ids)) != len(ids):
            raise BundleError(f"operating point ids repeat: {ids}")
        latencies = [self.reference_latency_ms(point) for point in self.points]
        if latencies != sorted(latencies):
            raise BundleError("operating points are not ordered fastest first")
        if self.shortlist_sha256 is None and any(point.has_shortlist for point in self.points):
            raise BundleError("a point has a vocabulary shortlist, and shortlist_sha256 does not say which")
        return self

    def __iter__(self) -> Iterator[OperatingPoint]:  # type: ignore[override]  # a table is its points
        return iter(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, point_id: str) -> OperatingPoint:
        """The point called `point_id`.

        Raises:
            UnknownOperatingPointError: Listing the ids there are.
        """
        for point in self.points:
            if point.id == point_id:
                return point
        known = ", ".join(point.id for point in self.points)
        raise UnknownOperatingPointError(f"operating point {point_id!r} is unknown: choose one of {known}")

    def reference_latency_ms(self, point: OperatingPoint) -> float:
        """Measured latency of `point` at the reference length, with all CPUs and no neighbour (or the nearest)."""

        def distance(row: LatencyMeasurement) -> tuple[int, int, int]:
            return (
                -row.num_cpus,
                row.num_busy_neighbours,
                abs(row.num_src_tokens - self.reference_num_tokens),
            )

        return min(point.latencies, key=distance).total_ms

    def quality_by_id(self) -> dict[str, float]:
        """Quality of every point, comparable within the table; higher is better.

        It is the negative dev loss; in a table without, BLEU; in a table with neither, the order.
        """
        losses = {point.id: -point.dev_loss for point in self.points if point.dev_loss is not None}
        if len(losses) == len(self.points):
            return losses
        bleus = {point.id: point.bleu for point in self.points if point.bleu is not None}
        if len(bleus) == len(self.points):
            return bleus
        return {point.id: float(position) for position, point in enumerate(self.points)}

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that some point has."""
        return precisions_of(self.points)

    @property
    def best(self) -> OperatingPoint:
        """The point of best quality."""
        quality = self.quality_by_id()
        return max(self.points, key=lambda point: quality[point.id])

    def check_against(self, space: DesignSpace) -> None:
        """Check every point's architecture against the design space it claims.

        Raises:
            BundleError: The table names another space.
            DesignSpaceError: A config lies outside the space.
        """
        if self.design_space != space.name:
            raise BundleError(
                f"operating point table is for design space {self.design_space!r}, not {space.name!r}"
            )
        for point in self.points:
            space.check(point.config)

    @classmethod
    def load(cls, path: Path) -> OperatingPointTable:
        """Read a table.

        Raises:
            BundleError: Naming the file and what is wrong with it.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path}: cannot be read ({error.strerror}): measure it with 'dynhat profile'"
            ) from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> OperatingPointTable:
        """The table that the file `path` holds, of which this is the content.

        Raises:
            BundleError: Naming the file and what is wrong with it.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise BundleError(
                f"{path}: {first_complaint(error)}: measure it again with 'dynhat profile'"
            ) from error
        except (BundleError, DesignSpaceError) as error:
            raise BundleError(f"{path}: {error}: measure it again with 'dynhat profile'") from error

    def as_json(self) -> str:
        """The table as a file holds it."""
        return self.model_dump_json(indent=1) + "\n"

    def save(self, path: Path) -> None:
        """Write the table to `path`."""
        path.write_text(self.as_json(), encoding="utf-8")


def precision_called(name: str) -> Precision:
    """The precision of that name.

    Raises:
        SettingsError: There is none; the message lists those there are.
    """
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise SettingsError(f"precision {name!r} is unknown: choose one of {', '.join(PRECISIONS)}")
