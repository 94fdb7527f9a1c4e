"""Published operating points as data: architectures from the paper and from HAT, with the figures printed beside them.

None of the figures was measured here, and none goes into a table of measured operating points: they are for people
to compare with. What is measured on a device comes from `dynhat profile`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, SettingsError, first_complaint
from dynhat_runtime.operating_point import PointId, Positive

Source = Literal["paper, Table II", "authors' search", "HAT, published"]
DEFAULT_SOURCE: Source = "paper, Table II"
DeviceSlug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class Figure(BaseModel):
    """A number somebody published, with whose it is and how they got it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Positive
    whose: Literal["the paper's", "HAT's"]
    how: Annotated[str, Field(min_length=1)]


class PaperPoint(BaseModel):
    """One published architecture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: PointId
    source: Source
    device: DeviceSlug
    """The device it was searched for, and its latency was measured on."""
    config: SubTransformerConfig
    latency_constraint_ms: Positive | None = None
    """What the search was asked for."""
    latency_ms: Figure | None = None
    bleu: Figure | None = None
    validation_loss: Figure | None = None


class PaperPoints(BaseModel):
    """All published architectures of one task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    task: str
    design_space: str
    points: Annotated[tuple[PaperPoint, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_are_distinct(self) -> PaperPoints:
        ids = [point.id for point in self.points]
        for point_id in ids:
            if ids.count(point_id) > 1:
                raise ValueError(f"point id {point_id!r} repeats")
        return self

    @classmethod
    def load(cls, path: Path) -> PaperPoints:
        """Read such a file.

        Raises:
            SettingsError: Naming the file and what is wrong with it.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
        except ValidationError as error:
            raise SettingsError(f"{path}: {first_complaint(error)}") from error
        except DesignSpaceError as error:
            raise SettingsError(f"{path}: {error}") from error

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that there are points for."""
        return tuple(sorted({point.device for point in self.points}))

    def of_device(self, device: str) -> tuple[PaperPoint, ...]:
        """The points searched for one device.

        Raises:
            SettingsError: There are none; the message lists the devices.
        """
        found = tuple(point for point in self.points if point.device == device)
        if not found:
            raise SettingsError(f"no points for device {device!r}: choose one of {', '.join(self.devices)}")
        return found
