"""The latency predictor as a value and as a file: what a SubTransformer will take on the device it was fitted for.

It carries its normalisation, what it was measured under, and how it was trained and tested. Fits nothing:
`latency_fit.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dynhat_runtime.design_space import DesignSpace, LatencyFeatures, SubTransformerConfig
from dynhat_runtime.errors import LatencyDataError, first_complaint
from dynhat_runtime.offline.additive_latency_model import AdditiveLatencyModel
from dynhat_runtime.offline.latency_basis import Array, Stacks
from dynhat_runtime.offline.latency_dataset import Conditions

REMEDY = "fit it with 'dynhat fit-predictor CSV --out FILE'"


class TrainingRecord(BaseModel):
    """How a predictor was trained and tested. Errors are on test rows, glitches included; MAPE as a fraction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    file_sha256: str
    where: tuple[str, ...]
    """Filters of the rows, such as num_cpus=2."""
    fitted_at: str
    """UTC, ISO 8601."""
    seed: int
    num_train: int
    num_validation: int
    num_test: int
    mape: float
    rmse_ms: float
    hat_mape: float | None
    """Of HAT's predictor retrained on the same split; None where that was left out."""
    hat_rmse_ms: float | None
    noise_floor_mape: float
    noise_floor_method: str


class LatencyRange(BaseModel):
    """Widths and depths that the training rows had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder_embed_dim: tuple[int, int]
    encoder_num_layers: tuple[int, int]
    decoder_embed_dim: tuple[int, int]
    decoder_num_layers: tuple[int, int]


class LatencyPredictor(BaseModel):
    """Predicts encoder and decoder latency together, as HAT's labels are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    kind: Literal["additive"] = "additive"
    device: str | None
    """None where neither the file nor the user named it; such a predictor can be tried but not searched with."""
    design_space: str | None
    """None in HAT's files."""
    conditions: Conditions | None
    """What all rows were measured under; None in HAT's files."""
    trained_range: LatencyRange
    model: AdditiveLatencyModel
    record: TrainingRecord

    def predict_ms(self, configs: Sequence[SubTransformerConfig]) -> Array:
        """Latency [N] of architectures in milliseconds, encoder and decoder together; always positive."""
        if not configs:
            return np.empty(0)
        return self.model.predict_ms(Stacks.of_configs(configs))

    def predict_features_ms(self, features: Sequence[LatencyFeatures] | Array) -> Array:
        """The same from HAT's ten averaged features alone: every layer is taken for the mean layer."""
        rows = np.asarray(features, dtype=float).reshape(-1, len(LatencyFeatures._fields))
        return self.model.predict_ms(Stacks.of_features(rows))

    def check_for(self, design_space: DesignSpace, device: str) -> None:
        """Check that this predictor speaks of `device` and of the architectures of `design_space`.

        Raises:
            LatencyDataError: It was fitted for another device, or another space; with the remedy.
        """
        if self.device is None:
            raise LatencyDataError(
                f"latency predictor names no device, so it cannot be checked against {device!r}: "
                f"fit it again with --device {device!r} if its data were measured there"
            )
        if self.device != device:
            raise LatencyDataError(
                f"latency predictor is for device {self.device!r}, not {device!r}: "
                "measure here with 'dynhat profile' and fit again, or name the predictor's device"
            )
        if self.design_space is not None and self.design_space != design_space.name:
            raise LatencyDataError(
                f"latency predictor is for design space {self.design_space!r}, not {design_space.name!r}: "
                "measure and fit in that space, or search in the predictor's"
            )
        for field, (least, most) in self.trained_range:
            outside = [choice for choice in getattr(design_space, field) if not least <= choice <= most]
            if outside:
                raise LatencyDataError(
                    f"latency predictor saw {field} from {least} to {most}; design space {design_space.name!r} "
                    f"has {outside[0]}: fit it on rows that cover the space"
                )

    def save(self, path: Path) -> None:
        """Write the predictor to `path` as JSON.

        Raises:
            LatencyDataError: The file cannot be written.
        """
        try:
            path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise LatencyDataError(
                f"{path}: cannot be written ({error.strerror}): give --out a file you may write"
            ) from error

    @classmethod
    def load(cls, path: Path) -> LatencyPredictor:
        """Read a predictor.

        Raises:
            LatencyDataError: Naming the file and what is wrong with it.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise LatencyDataError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from error
        except ValidationError as error:
            raise LatencyDataError(f"{path}: {first_complaint(error)}: {REMEDY}") from error
