"""Cutting SubTransformers: what they share, what they refuse, and that they leave each other alone."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import BundleError, DesignSpaceError
from dynhat_runtime.model.spec import SuperTransformerSpec, parameter_shapes
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.model.super_transformer import NO_DROPOUT, DropoutRates, SuperTransformer, initial_weights
from tests.golden import hat_configs, tiny_super_transformer

SRC_BS = torch.tensor([[1, 5, 6, 7, 2], [8, 9, 10, 11, 2]])
PREV_BT = torch.tensor([[2, 12, 13], [2, 14, 1]])


def _space(**changes: Any) -> DesignSpace:
    """Widths 12 and 8 in the encoder, 10 and 6 in the decoder; 3 encoder layers, up to 2 decoder layers."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "qkv_dim": 8,
        "encoder_embed_dim": (12, 8),
        "encoder_num_layers": (3, 2),
        "encoder_ffn_dim": (20, 16),
        "encoder_attention_heads": (4, 2),
        "decoder_embed_dim": (12, 6),
        "decoder_num_layers": (2, 1),
        "decoder_ffn_dim": (18, 9),
        "decoder_attention_heads": (4, 2),
        "cross_attention_heads": (4, 2),
        "cross_attention_span": (1, 2, 3),
    }
    return DesignSpace(**{**fields, **changes})


def _spec(**changes: Any) -> SuperTransformerSpec:
    fields: dict[str, Any] = {"design_space": _space(), "src_vocab_size": 20, "tgt_vocab_size": 20}
    return SuperTransformerSpec(**{**fields, "max_positions": 16, **changes})


@pytest.fixture
def tiny() -> SuperTransformer:
    """A tiny SuperTransformer with one matrix for source, target and output."""
    return SuperTransformer.random(_spec(), seed=1)


def _tensors(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested dataclasses and tuples, with the way to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _tensors(item, f"{path}.{i}")


def _super_name(path: str) -> str:
    """Name of the SuperTransformer's weight that the tensor at `path` must be cut from."""
    renamed = (
        ("encoder_layers", "encoder"),
        ("decoder_layers", "decoder"),
        ("_residual.norm", "_norm"),
        ("src_embedding.table_VE", "encoder.embedding"),
        ("tgt_embedding.table_VE", "decoder.embedding"),
        ("output.weight_OI", "decoder.output"),
        ("encoder_norm", "encoder.norm"),
        ("decoder_norm", "decoder.norm"),
        ("weight_OI", "weight"),
        ("bias_O", "bias"),
        ("weight_E", "weight"),
        ("bias_E", "bias"),
    )
    name = path.removeprefix(".")
    for old, new in renamed:
        name = name.replace(old, new)
    return name


# --- sharing ---


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm_first", [False, True])
def test_every_tensor_is_a_leading_slice_of_its_weight(seed: int, norm_first: bool) -> None:
    """Each tensor of a SubTransformer begins where its SuperTransformer weight begins and steps as it does."""
    spec = _spec(tied_embeddings="none", norm_first=norm_first)
    super_transformer = SuperTransformer.random(spec, seed=1)
    sub = super_transformer.extract(spec.design_space.sample(random.Random(seed)))
    positions = super_transformer.positions()
    seen = set()
    for path, tensor in _tensors(sub):
        if path.endswith("positions_PE"):
            assert tensor.data_ptr() == positions["tgt" in path].data_ptr()
            continue
        weight = super_transformer.weights[_super_name(path)]
        assert tensor.data_ptr() == weight.data_ptr(), path
        assert tensor.stride() == weight.stride(), path
        assert all(cut <= whole for cut, whole in zip(tensor.shape, weight.shape, strict=True)), path
        seen.add(_super_name(path))
    layers = sub.config.num_encoder_layers, sub.config.num_decoder_layers
    used = {
        name
        for name in super_transformer.weights
        if not name.split(".")[1].isdigit() or int(name.split(".")[1]) < layers[name.startswith("decoder")]
    }
    assert seen == used


def test_tied_matrices_are_one(tiny: SuperTransformer) -> None:
    """Source, target and output matrices of a tied model begin at the same byte."""
    sub = tiny.extract(tiny.spec.design_space.smallest())
    begin = tiny.weights["encoder.embedding"].data_ptr()
    tables = sub.src_embedding.table_VE, sub.tgt_embedding.table_VE, sub.output.weight_OI
    assert [table.data_ptr() for table in tables] == [begin] * 3


def test_tied_decoder_matrices_are_one() -> None:
    """tied_embeddings "decoder" shares target and output, and leaves the source alone."""
    sub = SuperTransformer.random(_spec(tied_embeddings="decoder", src_vocab_size=30), seed=1).extract(
        _space().largest()
    )
    assert sub.tgt_embedding.table_VE.data_ptr() == sub.output.weight_OI.data_ptr()
    assert sub.src_embedding.table_VE.shape[0] == 30
    assert sub.src_embedding.table_VE.data_ptr() != sub.output.weight_OI.data_ptr()


def test_weights_are_taken_as_they_are() -> None:
    """The SuperTransformer keeps the tensors it is given instead of copying them."""
    spec = _spec()
    weights = initial_weights(spec, torch.Generator().manual_seed(1))
    kept = SuperTransformer(spec, weights).weights
    assert all(kept[name] is weight for name, weight in weights.items())


def test_extracting_allocates_no_tensor(tiny: SuperTransformer) -> None:
    """Cutting makes views only: no storage is new."""
    storages = {w.untyped_storage().data_ptr() for w in (*tiny.parameters(), *tiny.positions())}
    for config in (tiny.spec.design_space.largest(), tiny.spec.design_space.smallest()):
        sub = tiny.extract(config)
        assert {t.untyped_storage().data_ptr() for _, t in _tensors(sub)} <= storages


# --- values ---


def test_sub_transformer_is_frozen(tiny: SuperTransformer) -> None:
    """Neither a SubTransformer nor a part of it can be set."""
    sub = tiny.extract(tiny.spec.design_space.largest())
    layer = sub.decoder_layers[0]
    for value, field in (
        (sub, "config"),
        (layer, "cross_attention_span"),
        (layer.self_attention, "num_heads"),
        (layer.self_attention.qkv, "weight_OI"),
        (sub.src_embedding, "dropout"),
        (layer.feed_forward_residual, "norm"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)


def test_a_forward_between_two_extractions_changes_nothing(tiny: SuperTransformer) -> None:
    """Extracting and running another point leaves the outputs of the first as they were, bit for bit."""
    space = tiny.spec.design_space
    large, small = tiny.extract(space.largest()), tiny.extract(space.smallest())
    alone = [sub.logits(SRC_BS, PREV_BT) for sub in (large, small)]
    started = large.encode(SRC_BS)
    tiny.extract(space.sample(random.Random(2))).logits(SRC_BS, PREV_BT)
    small.logits(SRC_BS, PREV_BT)
    assert torch.equal(large.output(large.decode(started, PREV_BT)), alone[0])
    assert torch.equal(small.logits(SRC_BS, PREV_BT), alone[1])
    assert not torch.allclose(*alone)


def test_incremental_decoding_outlives_a_switch(tiny: SuperTransformer) -> None:
    """A decoding in progress gives the teacher-forced scores although another point runs between its steps."""
    space = tiny.spec.design_space
    sub = tiny.extract(space.sample(random.Random(7)))
    decoder = sub.start(sub.encode(SRC_BS), num_beams=1)
    steps = []
    for tokens_B in PREV_BT.T:
        steps.append(decoder.step(tokens_B))
        tiny.extract(space.smallest()).logits(SRC_BS, PREV_BT)
    expected = sub.logits(SRC_BS, PREV_BT)
    torch.testing.assert_close(torch.stack(steps, dim=1)[:, :2], expected[:, :2], atol=1e-5, rtol=1e-5)


def test_same_seed_same_weights() -> None:
    """Fresh weights are a function of the seed."""
    first, twin, other = (SuperTransformer.random(_spec(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(first.weights[name], twin.weights[name]) for name in first.weights)
    assert not torch.equal(first.weights["encoder.embedding"], other.weights["encoder.embedding"])


def test_initialisation() -> None:
    """Biases are 0, norms 1, the pad row 0, matrices within Xavier's bound with q, k and v as one."""
    weights = SuperTransformer.random(_spec(tied_embeddings="none"), seed=1).weights
    assert all(not w.any() for name, w in weights.items() if name.endswith("bias"))
    assert all(bool((w == 1).all()) for name, w in weights.items() if name.endswith("norm.weight"))
    assert not weights["encoder.embedding"][1].any()
    assert not weights["decoder.embedding"][1].any()
    for name, num_rows, num_columns in (
        ("encoder.0.self_attention.qkv.weight", 24, 12),
        ("decoder.0.cross_attention.query.weight", 24, 12),
        ("decoder.0.cross_attention.key_value.weight", 24, 12),
        ("encoder.0.feed_forward.expand.weight", 20, 12),
    ):
        bound = math.sqrt(6 / (num_rows + num_columns))
        largest = weights[name].abs().max().item()
        assert 0.9 * bound < largest <= bound, name


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.2.self_attention.qkv.weight", None, "is missing"),
        ("encoder.3.self_attention.qkv.weight", torch.zeros(24, 12), "is not part of this design space"),
        ("decoder.output", torch.zeros(20, 12), "is not part of this design space"),
        ("decoder.0.feed_forward.expand.weight", torch.zeros(12, 18), r"has shape \(12, 18\); .* \(18, 12\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(name: str, value: Tensor | None, message: str) -> None:
    """A missing, superfluous or misshapen weight is refused by name."""
    spec = _spec()
    weights = initial_weights(spec, torch.Generator().manual_seed(1))
    weights.pop(name, None)
    if value is not None:
        weights[name] = value
    with pytest.raises(BundleError, match=rf"weight '{name}' {message}"):
        SuperTransformer(spec, weights)


def test_config_outside_the_space_is_refused(tiny: SuperTransformer) -> None:
    """Cutting an architecture outside the space fails with the field, for inference and for training."""
    config = tiny.spec.design_space.largest().model_copy(update={"encoder_embed_dim": 10})
    with pytest.raises(DesignSpaceError, match=r"encoder_embed_dim=10 .*\(12, 8\)"):
        tiny.extract(config)
    with pytest.raises(DesignSpaceError, match=r"encoder_embed_dim=10 .*\(12, 8\)"):
        tiny.extract_for_training(config, NO_DROPOUT)


# --- training ---


def _rates(sub: SubTransformer) -> dict[str, float]:
    """Every dropout rate of the first layers."""
    encoder, decoder = sub.encoder_layers[0], sub.decoder_layers[0]
    return {
        "src embedding": sub.src_embedding.dropout,
        "tgt embedding": sub.tgt_embedding.dropout,
        "encoder self-attention residual": encoder.self_attention_residual.dropout,
        "encoder feed-forward residual": encoder.feed_forward_residual.dropout,
        "decoder self-attention residual": decoder.self_attention_residual.dropout,
        "decoder cross-attention residual": decoder.cross_attention_residual.dropout,
        "decoder feed-forward residual": decoder.feed_forward_residual.dropout,
        "encoder activation": encoder.feed_forward.activation_dropout,
        "decoder activation": decoder.feed_forward.activation_dropout,
        "encoder attention": encoder.self_attention.dropout,
        "decoder attention": decoder.self_attention.dropout,
        "cross attention": decoder.cross_attention.dropout,
    }


def test_dropout_scales_with_the_width(tiny: SuperTransformer) -> None:
    """Dropout shrinks with the sampled width, except on attention weights and one encoder residual (HAT)."""
    sub = tiny.extract_for_training(tiny.spec.design_space.smallest(), DropoutRates(0.3, 0.2, 0.1))
    encoder, decoder = 0.3 * 8 / 12, 0.3 * 6 / 12
    assert _rates(sub) == pytest.approx(
        {
            "src embedding": encoder,
            "tgt embedding": decoder,
            "encoder self-attention residual": 0.3,
            "encoder feed-forward residual": encoder,
            "decoder self-attention residual": decoder,
            "decoder cross-attention residual": decoder,
            "decoder feed-forward residual": decoder,
            "encoder activation": 0.1 * 16 / 20,
            "decoder activation": 0.1 * 9 / 18,
            "encoder attention": 0.2,
            "decoder attention": 0.2,
            "cross attention": 0.2,
        }
    )


def test_dropout_is_whole_at_full_width(tiny: SuperTransformer) -> None:
    """The largest SubTransformer has the rates as given."""
    rates = _rates(tiny.extract_for_training(tiny.spec.design_space.largest(), DropoutRates(0.3, 0.3, 0.3)))
    assert set(rates.values()) == {0.3}


def test_inference_has_no_dropout(tiny: SuperTransformer) -> None:
    """A point cut for inference says the same twice."""
    sub = tiny.extract(tiny.spec.design_space.largest())
    assert set(_rates(sub).values()) == {0.0}
    assert torch.equal(sub.logits(SRC_BS, PREV_BT), sub.logits(SRC_BS, PREV_BT))


def test_training_dropout_is_at_work(tiny: SuperTransformer) -> None:
    """A point cut for training with dropout says something else each time."""
    sub = tiny.extract_for_training(tiny.spec.design_space.largest(), DropoutRates(0.3))
    assert not torch.equal(sub.logits(SRC_BS, PREV_BT), sub.logits(SRC_BS, PREV_BT))


def test_inference_carries_no_gradient(tiny: SuperTransformer) -> None:
    """Cut for inference, a point of weights under training records nothing; cut for training, it does."""
    for weight in tiny.parameters():
        weight.requires_grad_()
    config = tiny.spec.design_space.largest()
    assert not tiny.extract(config).logits(SRC_BS, PREV_BT).requires_grad
    trained = tiny.extract_for_training(config, NO_DROPOUT)
    trained.logits(SRC_BS, PREV_BT).sum().backward()
    assert all(weight.grad is not None for weight in tiny.parameters())


def test_gradient_stays_inside_the_slice(tiny: SuperTransformer) -> None:
    """Training the smallest point leaves rows, columns and layers beyond it without gradient."""
    for weight in tiny.parameters():
        weight.requires_grad_()
    sub = tiny.extract_for_training(tiny.spec.design_space.smallest(), NO_DROPOUT)
    sub.logits(SRC_BS, PREV_BT).square().sum().backward()
    gradient = tiny.weights["encoder.0.feed_forward.expand.weight"].grad
    assert gradient is not None
    assert gradient[:16, :8].any()
    assert not gradient[16:].any()
    assert not gradient[:, 8:].any()
    assert tiny.weights["encoder.2.self_attention.qkv.weight"].grad is None
    assert tiny.weights["decoder.1.self_attention.qkv.weight"].grad is None


# --- counting ---


@pytest.mark.parametrize("tied", ["all", "decoder", "none"])
def test_parameter_count(tied: str) -> None:
    """All weights are counted once: HAT's count of the largest point plus the matrices that are not shared."""
    spec = _spec(tied_embeddings=tied)
    num_matrices = {"all": 1, "decoder": 2, "none": 3}[tied]
    without = spec.design_space.num_parameters(spec.design_space.largest())
    assert SuperTransformer.random(spec, 1).num_parameters == without + num_matrices * 20 * 12


def test_papers_model_is_tens_of_millions() -> None:
    """The paper's SuperTransformer has the 70.9 million weights (without embeddings) that HAT counts."""
    space = preset("paper-wmt14-ende")
    shapes = parameter_shapes(SuperTransformerSpec(design_space=space, src_vocab_size=5, tgt_vocab_size=5))
    counted = sum(math.prod(shape) for name, shape in shapes.items() if name != "encoder.embedding")
    assert counted == space.num_parameters(space.largest()) == 70_900_992


def test_config_is_kept(tiny: SuperTransformer) -> None:
    """A SubTransformer knows its architecture."""
    config: SubTransformerConfig = tiny.spec.design_space.sample(random.Random(1))
    assert tiny.extract(config).config == config


def test_decoding_layout_changes_no_number() -> None:
    """Laid out for decoding every point says the same, from one storage per matrix."""
    plain = tiny_super_transformer("tiny_shared")
    laid_out = plain.laid_out_for_decoding()
    src, prev = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[2, 8, 9]])
    subs = []
    for config in hat_configs("tiny_shared").values():
        sub = laid_out.extract(config)
        subs.append(sub)
        torch.testing.assert_close(
            sub.logits(src, prev), plain.extract(config).logits(src, prev), atol=1e-5, rtol=0
        )
    assert len({sub.output.weight_OI.untyped_storage().data_ptr() for sub in subs}) == 1
    assert subs[0].output.weight_OI.stride(0) == 1
    assert subs[0].src_embedding.table_VE.data_ptr() == plain.weights["encoder.embedding"].data_ptr()


@pytest.mark.parametrize(("encoder_dim", "decoder_dim"), [(8, 16), (16, 8)])
def test_stacks_of_different_widths_share_a_matrix(encoder_dim: int, decoder_dim: int) -> None:
    """One matrix for all embeddings serves stacks of different largest widths, laid out for decoding or not."""
    space = preset("quarter-wmt14-ende").model_copy(
        update={
            "encoder_embed_dim": (encoder_dim,),
            "decoder_embed_dim": (decoder_dim,),
            "encoder_num_layers": (1,),
            "decoder_num_layers": (1,),
            "cross_attention_span": (1,),
        }
    )
    whole = SuperTransformer.random(
        SuperTransformerSpec(design_space=space, src_vocab_size=20, tgt_vocab_size=20), seed=1
    )
    assert whole.weights["encoder.embedding"].shape == (20, 16)
    tokens = torch.tensor([[5, 6, 2]])
    logits = [
        model.extract(space.largest()).logits(tokens, tokens)
        for model in (whole, whole.laid_out_for_decoding())
    ]
    torch.testing.assert_close(*logits)
