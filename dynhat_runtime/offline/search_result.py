"""What a search found, as a file: the front of loss against predicted latency, and all that was evaluated.

Searches nothing. `dynhat export-points` and `dynhat reduce-space` begin with it (`searched_points`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, SearchError, first_complaint
from dynhat_runtime.offline.candidates import Candidate

Method = Literal["pareto", "hat", "random"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Loss = Annotated[float, Field(allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FrontPoint(BaseModel):
    """One architecture of the front."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: SubTransformerConfig
    predicted_ms: Positive
    """By the predictor, not measured."""
    dev_loss: Loss
    """Nats per target token, on the whole dev set."""
    num_decoder_layers: Annotated[int, Field(gt=0)]

    @classmethod
    def of(cls, candidate: Candidate) -> FrontPoint:
        """A candidate whose loss was measured on the whole dev set."""
        return cls(
            config=candidate.config,
            predicted_ms=candidate.predicted_ms,
            dev_loss=candidate.loss,
            num_decoder_layers=candidate.config.num_decoder_layers,
        )


class EvaluatedRow(BaseModel):
    """One architecture that was evaluated, in few bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gene: tuple[int, ...]
    predicted_ms: Positive
    subset_loss: Loss
    """Nats per target token, on the subset of the dev set."""

    @classmethod
    def of(cls, candidate: Candidate, space: DesignSpace) -> EvaluatedRow:
        """A candidate whose loss was measured on the subset."""
        return cls(
            gene=space.gene(candidate.config),
            predicted_ms=candidate.predicted_ms,
            subset_loss=candidate.loss,
        )


class SearchResult(BaseModel):
    """One search's findings with everything that decided them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    method: Method
    design_space: str
    weights_sha256: Sha256
    device: str
    """The predictor's device, which the front is for."""
    predictor_sha256: Sha256
    dev_set: str
    num_subset_sentences: Annotated[int, Field(gt=0)]
    seed: int
    latency_constraint_ms: Positive | None
    num_evaluations: int
    """Distinct architectures measured on the subset."""
    num_full_evaluations: int
    """Distinct architectures measured on the whole dev set."""
    evaluation_s: float
    """Seconds that measuring took, whenever it was done, all processes added up."""
    elapsed_s: float
    """Seconds of this run of the command."""
    front: Annotated[tuple[FrontPoint, ...], Field(min_length=1)]
    """Ascending latency, descending loss."""
    evaluated: tuple[EvaluatedRow, ...]
    """In the order of evaluation."""

    @classmethod
    def load(cls, path: Path) -> SearchResult:
        """Read a result.

        Raises:
            SearchError: The file is missing or broken; naming the field.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SearchError(
                f"{path}: cannot be read ({error.strerror}): make one with 'dynhat search'"
            ) from error
        except ValidationError as error:
            raise SearchError(
                f"{path}: {first_complaint(error)}: make it again with 'dynhat search'"
            ) from error
        except DesignSpaceError as error:
            raise SearchError(f"{path}: {error}: make it again with 'dynhat search'") from error

    def save(self, path: Path) -> None:
        """Write the result; an interruption leaves the previous file whole.

        Raises:
            SearchError: The file cannot be written.
        """
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(self.model_dump_json() + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise SearchError(
                f"{path}: cannot be written ({error.strerror}): give another --run-dir"
            ) from error
