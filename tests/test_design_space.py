"""The design space against the reference's samples, genes and features, and what it says when asked wrongly."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest

from dynhat_runtime.design_space import (
    DesignSpace,
    SubTransformerConfig,
    choices_of,
    latency_features,
)
from dynhat_runtime.design_space_presets import PRESETS, preset
from dynhat_runtime.errors import DesignSpaceError
from dynhat_runtime.offline.import_hat import SPAN_OF_CODE, config_from_hat
from tests.golden import read_json, space_of_choices

SPAN_BLOCK = 34
"""Where the spans begin in a gene of the paper's space."""


@functools.cache
def _golden_search() -> Any:
    return read_json("search", "sampling_genes_features.json")


@functools.cache
def _golden_space(name: str) -> DesignSpace:
    return space_of_choices(name, 512, _golden_search()[name]["choices"])


def _samples() -> list[tuple[str, int]]:
    return [(name, seed) for name in ("space0", "space1") for seed in range(20)]


def _tiny_space(**changes: Any) -> DesignSpace:
    """A space of 2 encoder and up to 2 decoder layers."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "qkv_dim": 8,
        "encoder_embed_dim": (12, 8),
        "encoder_num_layers": (2,),
        "encoder_ffn_dim": (16, 8),
        "encoder_attention_heads": (4, 2),
        "decoder_embed_dim": (12, 8),
        "decoder_num_layers": (2, 1),
        "decoder_ffn_dim": (16, 8),
        "decoder_attention_heads": (4, 2),
        "cross_attention_heads": (4, 2),
        "cross_attention_span": (1, 2),
    }
    return DesignSpace(**{**fields, **changes})


# --- parity with the reference ---


@pytest.mark.parametrize(("space", "seed"), _samples())
def test_seeded_sample_is_the_references(space: str, seed: int) -> None:
    """The same Python random state draws the architecture that HAT draws."""
    expected = _golden_search()[space]["samples"][seed]
    assert expected["seed"] == seed
    assert _golden_space(space).sample(random.Random(seed)) == config_from_hat(expected["config"])


def test_span_is_drawn_for_every_super_layer() -> None:
    """Also a shallow sample draws a span for each decoder layer of the SuperTransformer, as HAT does."""
    draws: list[int] = []

    class Counting(random.Random):
        def choice(self, seq: Any) -> Any:
            draws.append(len(seq))
            return super().choice(seq)

    space = preset("paper-wmt14-ende").model_copy(update={"decoder_num_layers": (1, 6)})
    depths = set()
    for seed in range(8):
        draws.clear()
        depth = space.sample(Counting(seed)).num_decoder_layers
        depths.add(depth)
        assert len(draws) == 4 + 2 * 6 + 3 * depth + 6
    assert depths == {1, 6}


@pytest.mark.parametrize(("space", "seed"), _samples())
def test_gene_is_the_references(space: str, seed: int) -> None:
    """A gene equals HAT's; span positions beyond the depth, which HAT draws and ignores, repeat the first."""
    sample = _golden_search()[space]["samples"][seed]
    config = config_from_hat(sample["config"])
    theirs = sample["gene"]
    spans = [SPAN_OF_CODE[code] for code in theirs[SPAN_BLOCK : SPAN_BLOCK + config.num_decoder_layers]]
    spans += spans[:1] * (6 - config.num_decoder_layers)
    assert _golden_space(space).gene(config) == (*theirs[:SPAN_BLOCK], *spans)


@pytest.mark.parametrize(("space", "seed"), _samples())
def test_reference_gene_decodes_to_its_config(space: str, seed: int) -> None:
    """HAT's own gene, codes translated, decodes to the architecture it was made from."""
    sample = _golden_search()[space]["samples"][seed]
    theirs = sample["gene"]
    gene = [*theirs[:SPAN_BLOCK], *(SPAN_OF_CODE[code] for code in theirs[SPAN_BLOCK:])]
    assert _golden_space(space).config_from_gene(gene) == config_from_hat(sample["config"])


@pytest.mark.parametrize(("space", "seed"), _samples())
def test_features_are_the_references(space: str, seed: int) -> None:
    """The ten latency features equal HAT's."""
    sample = _golden_search()[space]["samples"][seed]
    assert list(latency_features(config_from_hat(sample["config"]))) == pytest.approx(sample["features"])


def test_preset_is_the_papers_space() -> None:
    """The paper's preset has HAT's choices in HAT's order."""
    ours = preset("paper-wmt14-ende")
    assert ours.model_copy(update={"name": "space0"}) == _golden_space("space0")


@pytest.mark.parametrize(
    ("published", "space"),
    [(p, preset("paper-wmt14-ende")) for p in read_json("search", "published_subtransformers.json")],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_published_architectures(published: dict[str, Any], space: DesignSpace) -> None:
    """Parameter counts and features of HAT's published architectures are those HAT prints."""
    config = config_from_hat(published["config"])
    assert space.num_parameters(config) == published["params_no_embed"]
    assert list(latency_features(config)) == pytest.approx(published["features"])


# --- counting ---


def test_size_of_the_papers_space() -> None:
    """The paper's space has 2 * 2 * 6^6 * sum of 36^n architectures, about 4e14."""
    count = preset("paper-wmt14-ende").num_configurations()
    assert count == 2 * 2 * (3 * 2) ** 6 * sum((3 * 2 * 2 * 3) ** n for n in range(1, 7))
    assert 1e14 < count < 1e15


def test_size_of_the_reduced_space() -> None:
    """The paper's reduced space has (2*2)^6 * sum of 16^n architectures, about 7e10."""
    reduced = DesignSpace(
        **{
            **preset("paper-wmt14-ende").model_dump(),
            "name": "reduced",
            "encoder_embed_dim": (512,),
            "decoder_embed_dim": (512,),
            "encoder_ffn_dim": (3072, 2048),
            "decoder_ffn_dim": (3072, 2048),
            "cross_attention_span": (1, 2),
        }
    )
    assert reduced.num_configurations() == 4**6 * sum(16**n for n in range(1, 7))
    assert reduced.num_configurations() == pytest.approx(7.3e10, rel=0.01)


def test_count_is_that_of_distinct_samples() -> None:
    """A space small enough to be drawn empty holds as many architectures as it says."""
    space = _tiny_space(
        encoder_embed_dim=(8,), encoder_ffn_dim=(16,), encoder_attention_heads=(2,), cross_attention_span=(1,)
    )
    rng = random.Random(0)
    seen = {space.sample(rng) for _ in range(3000)}
    assert len(seen) == space.num_configurations() == 2 * (8 + 64)


# --- the corners ---


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_largest_and_smallest_bound_every_sample(name: str) -> None:
    """No sample has more weights than the largest or fewer than the smallest; both lie in the space."""
    space, rng = preset(name), random.Random(5)
    least, most = (space.num_parameters(space.check(c)) for c in (space.smallest(), space.largest()))
    for _ in range(50):
        assert least <= space.num_parameters(space.check(space.sample(rng))) <= most


def test_unknown_preset_lists_the_known() -> None:
    """Asking for a preset that does not exist names those that do."""
    with pytest.raises(DesignSpaceError, match=r"'papier' is unknown.*'paper-wmt14-ende'"):
        preset("papier")


# --- what is refused, and how ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_embed_dim": 10}, r"encoder_embed_dim=10 .*'tiny'.*\(12, 8\)"),
        ({"decoder_embed_dim": 16}, r"decoder_embed_dim=16 .*'tiny'.*\(12, 8\)"),
        ({"encoder_ffn_dims": (16, 9)}, r"encoder_ffn_dims\[1\]=9 .*\(16, 8\)"),
        ({"decoder_ffn_dims": (24, 8)}, r"decoder_ffn_dims\[0\]=24 .*\(16, 8\)"),
        ({"encoder_attention_heads": (4, 1)}, r"encoder_attention_heads\[1\]=1 .*\(4, 2\)"),
        ({"decoder_attention_heads": (8, 4)}, r"decoder_attention_heads\[0\]=8 .*\(4, 2\)"),
        ({"cross_attention_heads": (2, 3)}, r"cross_attention_heads\[1\]=3 .*\(4, 2\)"),
        ({"cross_attention_spans": (1, 3)}, r"cross_attention_spans\[1\]=3 .*\(1, 2\)"),
        (
            {"encoder_ffn_dims": (16,), "encoder_attention_heads": (4,)},
            r"num_encoder_layers=1 .*\(2,\)",
        ),
        (
            {
                "decoder_ffn_dims": (16,) * 3,
                "decoder_attention_heads": (4,) * 3,
                "cross_attention_heads": (4,) * 3,
                "cross_attention_spans": (1,) * 3,
            },
            r"num_decoder_layers=3 .*\(2, 1\)",
        ),
    ],
)
def test_config_outside_is_refused(change: dict[str, Any], message: str) -> None:
    """A config outside the space is refused with the field, its value and the choices there are."""
    space = _tiny_space()
    config = SubTransformerConfig(**{**space.largest().model_dump(), **change})
    with pytest.raises(DesignSpaceError, match=message):
        space.check(config)


@pytest.mark.parametrize(
    "field",
    [
        "encoder_attention_heads",
        "decoder_attention_heads",
        "cross_attention_heads",
        "cross_attention_spans",
    ],
)
def test_unequal_lists_are_refused(field: str) -> None:
    """Per-layer lists of one stack that differ in length are refused, naming the list and both lengths."""
    fields = _tiny_space().largest().model_dump()
    fields[field] = (*fields[field], 1)
    with pytest.raises(DesignSpaceError, match=rf"{field}=.* has 3 entries; \w+_ffn_dims has 2"):
        SubTransformerConfig(**fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_ffn_dim": (16, 8, 16)}, r"decoder_ffn_dim=\(16, 8, 16\) repeats"),
        ({"cross_attention_heads": (4, 3)}, r"cross_attention_heads choice 3 does not divide qkv_dim=8"),
        ({"encoder_attention_heads": (16,)}, r"encoder_attention_heads choice 16 .* qkv_dim=8"),
        ({"cross_attention_span": (1, 3)}, r"cross_attention_span=\(1, 3\) reaches past .* 2 layers"),
    ],
)
def test_impossible_space_is_refused(change: dict[str, Any], message: str) -> None:
    """A space that no SuperTransformer can have is refused, naming the choice at fault."""
    with pytest.raises(DesignSpaceError, match=message):
        _tiny_space(**change)


def test_gene_of_wrong_length_is_refused() -> None:
    """A gene that is too short is refused with both lengths."""
    space = preset("paper-wmt14-ende")
    gene = space.gene(space.largest())
    with pytest.raises(DesignSpaceError, match=r"gene has 39 entries; .* needs 40"):
        space.config_from_gene(gene[:-1])


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 600, r"gene\[0\] \(encoder_embed_dim\) = 600 .*\(640, 512\)"),
        (15, 7, r"gene\[15\] \(decoder_num_layers\) = 7 .*\(6, 5, 4, 3, 2, 1\)"),
        (39, -1, r"gene\[39\] \(cross_attention_span\) = -1 .*\(1, 2, 3\)"),
    ],
)
def test_gene_entry_outside_is_refused(position: int, value: int, message: str) -> None:
    """A gene entry that is no choice of its position is refused, naming position, field and choices."""
    space = preset("paper-wmt14-ende")
    gene = list(space.gene(space.largest()))
    gene[position] = value
    with pytest.raises(DesignSpaceError, match=message):
        space.config_from_gene(gene)


def test_config_is_a_value() -> None:
    """A config cannot be changed and equals its twin, so it can key a dictionary."""
    config = _tiny_space().largest()
    with pytest.raises(ValueError, match="frozen"):
        config.encoder_embed_dim = 8  # type: ignore[misc]
    assert {config: "found"}[_tiny_space().largest()] == "found"


# --- mutation and crossover ---


@pytest.mark.parametrize("name", ["space0", "space1"])
def test_offspring_stay_inside(name: str) -> None:
    """Whatever mutation and crossover make lies in the space."""
    space, rng = _golden_space(name), random.Random(11)
    for _ in range(100):
        first, second = space.sample(rng), space.sample(rng)
        space.check(space.crossover(first, second, rng))
        space.check(space.mutate(first, 0.3, rng))


def test_offspring_are_seeded() -> None:
    """The same seed makes the same offspring, another seed others."""
    space = _golden_space("space0")
    parents = space.largest(), space.smallest()

    def offspring(seed: int) -> tuple[SubTransformerConfig, SubTransformerConfig]:
        rng = random.Random(seed)
        return space.crossover(*parents, rng), space.mutate(parents[0], 0.5, rng)

    assert offspring(1) == offspring(1)
    assert offspring(1)[0] != offspring(2)[0]
    assert offspring(1)[1] != offspring(2)[1]


def test_mutation_probability() -> None:
    """Probability 0 changes nothing; 1 redraws every entry."""
    space, rng = _golden_space("space0"), random.Random(3)
    config = space.largest()
    assert space.mutate(config, 0.0, rng) == config
    mutants = {space.gene(space.mutate(config, 1.0, rng)) for _ in range(40)}
    for position, slot in enumerate(zip(*mutants, strict=True)):
        assert len(set(slot)) > 1 or position == 1, f"entry {position} never changed"


def test_crossover_takes_each_entry_from_a_parent() -> None:
    """A child's genes come from its parents, and from both of them."""
    space, rng = _golden_space("space0"), random.Random(4)
    largest, smallest = space.largest(), space.smallest()
    child = space.gene(space.crossover(largest, smallest, rng))
    for value, pair in zip(child, zip(space.gene(largest), space.gene(smallest), strict=True), strict=True):
        assert value in pair
    assert child not in (space.gene(largest), space.gene(smallest))


# --- narrowing ---


def test_choices_of_an_architecture_make_a_space_around_it() -> None:
    """Narrowed to what one architecture takes, the space holds it, keeps its order, and has its largest sizes."""
    space = preset("paper-wmt14-ende")
    config = space.sample(random.Random(3))
    narrowed = space.narrowed_to(choices_of(config), "one")
    assert narrowed.check(config) is config
    assert (narrowed.name, narrowed.qkv_dim) == ("one", 512)
    assert narrowed.max_decoder_layers == config.num_decoder_layers
    assert narrowed.largest().encoder_ffn_dims[0] == max(config.encoder_ffn_dims)
    for field, used in choices_of(config).items():
        assert getattr(narrowed, field) == tuple(c for c in getattr(space, field) if c in used)


def test_dimensions_not_named_stay_whole() -> None:
    """Narrowing one dimension leaves the others as they were."""
    narrowed = _tiny_space().narrowed_to({"decoder_ffn_dim": [8]}, "tiny")
    assert narrowed == _tiny_space(decoder_ffn_dim=(8,))


def test_narrowing_to_nothing_is_refused() -> None:
    """A dimension that would have no choice left is named with its choices."""
    with pytest.raises(DesignSpaceError, match=r"decoder_ffn_dim=\(16, 8\) of .*'tiny' has none of \[7\]"):
        _tiny_space().narrowed_to({"decoder_ffn_dim": [7]}, "x")
