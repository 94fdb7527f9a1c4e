"""A training recipe as a value, read from TOML. Every field has a meaning, and a default where one is sane."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig, choices_of
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import DesignSpaceError, TrainingError
from dynhat_runtime.operating_point import PointId

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


FilterName = Literal["control_characters", "length_ratio", "copied", "duplicate", "overlap", "language"]
FILTERS: tuple[FilterName, ...] = get_args(FilterName)


class CleaningRecipe(_Section):
    """Which training pairs are left out, beside empty and over-long ones. What each filter means: `cleaning.py`."""

    filters: tuple[FilterName, ...] = FILTERS
    """Those applied; none with `[]`."""
    normalise: bool = True
    """Unicode's composed form, one space between words, no invisible characters; dev text, too."""
    max_length_ratio: Annotated[float, Field(ge=1)] = 2.2
    """length_ratio: the longer side over the shorter, in characters ..."""
    length_slack_characters: Annotated[int, Field(ge=0)] = 10
    """... after so many are added to both, so that short texts have room."""
    language_confidence: Annotated[float, Field(ge=0.5, le=1)] = 0.98
    """language: how sure it has to be that a side is in the other language."""
    min_language_words: Annotated[int, Field(gt=0)] = 3
    """language: shorter texts are never judged."""
    min_overlap_words: Annotated[int, Field(gt=0)] = 4
    """overlap: shorter sentences may stand in the dev and test sets, too."""


class CorpusRecipe(_Section):
    """One file of parallel text and how much of it an epoch sees."""

    file: str
    """Path below the data folder; gzipped TSV."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Expected occurrences of each pair per epoch."""
    max_words: Annotated[int, Field(gt=0)] = 100
    modernise_spelling: bool = False
    licence: str = ""


class DataRecipe(_Section):
    """Training and development text."""

    src_lang: str = "en"
    tgt_lang: str = "de"
    vocab_size: Annotated[int, Field(ge=300)] = 8000
    max_tokens_per_sentence: Annotated[int, Field(gt=1)] = 100
    corpora: Annotated[tuple[CorpusRecipe, ...], Field(min_length=1)]
    dev: Annotated[tuple[CorpusRecipe, ...], Field(min_length=1)]
    held_out: tuple[str, ...] = ()
    """Files below the data folder, beside dev, whose sentences no training pair may share: the test sets."""
    cleaning: CleaningRecipe = CleaningRecipe()


class ModelRecipe(_Section):
    """Architecture of the SuperTransformer."""

    design_space: str | DesignSpace
    """A preset's name, or a table with the choices."""
    norm_first: bool = False
    max_positions: Annotated[int, Field(gt=0)] = 512

    @property
    def space(self) -> DesignSpace:
        """The design space itself."""
        return preset(self.design_space) if isinstance(self.design_space, str) else self.design_space


class AnchorRecipe(_Section):
    """An architecture that gets a fixed share of the draws, beside the uniform ones."""

    size: Literal["largest", "smallest"]
    """Of the design space; the other fields override it where given."""
    share: Annotated[float, Field(gt=0, le=1)]
    num_decoder_layers: Annotated[int, Field(gt=0)] | None = None
    cross_attention_span: Annotated[int, Field(gt=0)] | None = None
    encoder_embed_dim: Annotated[int, Field(gt=0)] | None = None
    decoder_embed_dim: Annotated[int, Field(gt=0)] | None = None
    encoder_ffn_dim: Annotated[int, Field(gt=0)] | None = None
    decoder_ffn_dim: Annotated[int, Field(gt=0)] | None = None

    def config(self, space: DesignSpace) -> SubTransformerConfig:
        """The architecture in `space`.

        Raises:
            DesignSpaceError: An override is not a choice of the space.
        """
        base = space.largest() if self.size == "largest" else space.smallest()
        depth = self.num_decoder_layers or base.num_decoder_layers
        span = self.cross_attention_span or base.cross_attention_spans[0]
        encoder_ffn_dim = self.encoder_ffn_dim or base.encoder_ffn_dims[0]
        decoder_ffn_dim = self.decoder_ffn_dim or base.decoder_ffn_dims[0]
        return space.check(
            base.model_copy(
                update={
                    "encoder_embed_dim": self.encoder_embed_dim or base.encoder_embed_dim,
                    "decoder_embed_dim": self.decoder_embed_dim or base.decoder_embed_dim,
                    "encoder_ffn_dims": (encoder_ffn_dim,) * base.num_encoder_layers,
                    "decoder_ffn_dims": (decoder_ffn_dim,) * depth,
                    "decoder_attention_heads": base.decoder_attention_heads[:1] * depth,
                    "cross_attention_heads": base.cross_attention_heads[:1] * depth,
                    "cross_attention_spans": (span,) * depth,
                }
            )
        )


class FixedRecipe(_Section):
    """The architecture of a run that trains one operating point alone, from scratch (the paper's Table I)."""

    id: PointId
    config: SubTransformerConfig


class SamplingRecipe(_Section):
    """Which SubTransformers an update trains."""

    strategy: Literal["single", "sandwich", "fixed"] = "single"
    """single: one SubTransformer per update (HAT). sandwich: largest, smallest and drawn ones in every update.
    fixed: the same one in every update."""
    fixed: FixedRecipe | None = None
    """fixed: which one."""
    anchors: tuple[AnchorRecipe, ...] = ()
    """single, sandwich: architectures drawn with a fixed probability; what is left is drawn uniformly. HAT: none."""
    num_random: Annotated[int, Field(ge=0)] = 1
    """sandwich: drawn SubTransformers per update."""
    distillation_weight: Fraction = 0.5
    """Share of the loss of all but the largest that follows the largest's distribution: of a sandwich, and with
    teach_single."""
    teach_single: bool = False
    """single: the largest's forward pass is run, too, for the one drawn to learn from (Cai et al. 2020); HAT: no."""

    @model_validator(mode="after")
    def _shares_leave_room(self) -> SamplingRecipe:
        """Anchors' shares cannot exceed all updates."""
        total = sum(anchor.share for anchor in self.anchors)
        if total > 1:
            raise ValueError(f"the anchors' shares add up to {total:.3g}; they may add up to at most 1")
        return self

    @model_validator(mode="after")
    def _only_single_needs_teaching(self) -> SamplingRecipe:
        """A sandwich has its teacher anyway, and one architecture alone has none."""
        if self.teach_single and self.strategy != "single":
            raise ValueError(f"teach_single: strategy={self.strategy!r} has no use for it: leave it out")
        return self

    @model_validator(mode="after")
    def _fixed_is_alone(self) -> SamplingRecipe:
        """Strategy and fixed architecture come together, and leave no update to an anchor."""
        if (self.strategy == "fixed") != (self.fixed is not None):
            raise ValueError(f"strategy={self.strategy!r}: 'fixed' needs [sampling.fixed], others have none")
        if self.fixed is not None and self.anchors:
            raise ValueError("strategy='fixed' trains one architecture: leave out the anchors")
        return self


class OptimizerRecipe(_Section):
    """Adam with warm-up and decay."""

    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    peak_lr: Annotated[float, Field(gt=0)] = 1e-3
    initial_lr: Annotated[float, Field(ge=0)] = 1e-7
    final_lr: Annotated[float, Field(ge=0)] = 1e-7
    """cosine only."""
    num_warmup_updates: Annotated[int, Field(ge=0)] = 10_000
    max_updates: Annotated[int, Field(gt=0)] = 40_000
    beta1: Fraction = 0.9
    beta2: Fraction = 0.98
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the token-normalised gradient; 0 = no clipping."""
    label_smoothing: Fraction = 0.1
    residual_dropout: Fraction = 0.3
    attention_dropout: Fraction = 0.1
    activation_dropout: Fraction = 0.0


class LoopRecipe(_Section):
    """Batches, precision and what is written when."""

    seed: int = 1
    max_tokens_per_batch: Annotated[int, Field(gt=1)] = 4096
    """Padded tokens of the longer side of one micro-batch."""
    num_batches_per_update: Annotated[int, Field(gt=0)] = 1
    """Micro-batches of one update over all processes together (gradient accumulation)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    log_every_updates: Annotated[int, Field(gt=0)] = 50
    validate_every_updates: Annotated[int, Field(gt=0)] = 1000
    checkpoint_every_updates: Annotated[int, Field(gt=0)] = 500
    num_checkpoints_kept: Annotated[int, Field(gt=0)] = 10


class Recipe(_Section):
    """Everything that decides what a training run computes."""

    data: DataRecipe
    model: ModelRecipe
    sampling: SamplingRecipe = SamplingRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    loop: LoopRecipe = LoopRecipe()

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        """Sentences fit the positions, and anchors lie in the design space: better said now than in update 1000."""
        longest, positions = self.data.max_tokens_per_sentence, self.model.max_positions
        if longest > positions:
            raise ValueError(
                f"data.max_tokens_per_sentence={longest} exceeds model.max_positions={positions}"
            )
        space = self.model.space
        for anchor in self.sampling.anchors:
            anchor.config(space)
        if self.sampling.fixed is not None:
            space.check(self.sampling.fixed.config)
        return self

    def for_one(self, point_id: str, config: SubTransformerConfig) -> Recipe:
        """This recipe for one architecture alone: its design space shrinks to what the architecture takes.

        The SuperTransformer of such a run has the architecture's sizes; every update trains the architecture.

        Raises:
            DesignSpaceError: The architecture lies outside this recipe's design space.
        """
        space = self.model.space
        space.check(config)
        narrowed = space.narrowed_to(choices_of(config), f"{space.name}-{point_id}")
        fixed = FixedRecipe(id=point_id, config=config)
        return self.model_copy(
            update={
                "model": self.model.model_copy(update={"design_space": narrowed}),
                "sampling": SamplingRecipe(strategy="fixed", fixed=fixed),
            }
        )

    def with_budget(self, max_updates: int) -> Recipe:
        """This recipe with another number of updates; decay ends with them, warm-up takes at most half of them."""
        warmup = min(self.optimizer.num_warmup_updates, max_updates // 2)
        changes = {"max_updates": max_updates, "num_warmup_updates": warmup}
        return self.model_copy(update={"optimizer": self.optimizer.model_copy(update=changes)})

    def without_cleaning(self) -> Recipe:
        """This recipe with the text as it is: only empty and over-long pairs are left out."""
        raw = CleaningRecipe(filters=(), normalise=False)
        return self.model_copy(update={"data": self.data.model_copy(update={"cleaning": raw})})

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML recipe.

        Raises:
            TrainingError: Naming the file, the field and the value.
        """
        try:
            return cls.model_validate(read_toml(path))
        except ValidationError as error:
            # The deepest: where a field may be a name or a table, that is the table's own field at fault.
            worst = max(error.errors(), key=lambda found: len(found["loc"]))
            field = ".".join(str(part) for part in worst["loc"])
            got = f" (got {worst['input']!r})" if isinstance(worst["input"], str | int | float) else ""
            raise TrainingError(f"{path}: {field + ': ' if field else ''}{worst['msg']}{got}") from error
        except DesignSpaceError as error:
            raise TrainingError(f"{path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's top-level table.

    Raises:
        TrainingError: The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(
            f"{path}: cannot be read ({error.strerror}): give the path of a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not TOML: {error}") from error


def recipe_toml(tables: Mapping[str, Any]) -> str:
    """Tables of a recipe as TOML, as `read_toml` gave them."""
    import tomli_w

    return tomli_w.dumps(tables)


def dotted_fields(value: Any, free: frozenset[str], path: str = "") -> dict[str, Any]:
    """Every field of a recipe's dump by its dotted path, without those called as in `free`."""
    if isinstance(value, dict):
        items = [(key, item) for key, item in value.items() if key not in free]
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return {path: value}
    fields: dict[str, Any] = {}
    for key, item in items:
        fields.update(dotted_fields(item, free, f"{path}.{key}" if path else key))
    return fields


def differing_fields(before: BaseModel, now: BaseModel, free: frozenset[str]) -> dict[str, str]:
    """Fields in which two recipes, or two of their sections, differ, each with both values in words."""
    first, second = (dotted_fields(recipe.model_dump(), free) for recipe in (before, now))
    return {
        field: f"{field}={first.get(field)!r} (not {second.get(field)!r})"
        for field in first | second
        if first.get(field) != second.get(field)
    }
