"""Parity with the reference implementation's numbers (HAT), for every stored architecture and batch."""

from __future__ import annotations

import functools

import pytest
import torch
from safetensors.torch import load_file

from dynhat_runtime.design_space import latency_features
from dynhat_runtime.model.super_transformer import NO_DROPOUT, SuperTransformer
from dynhat_runtime.offline.import_hat import weights_from_hat
from dynhat_runtime.offline.loss import smoothed_cross_entropy
from tests.golden import GOLDEN, hat_configs, read_json, space0_super_transformer, tiny_super_transformer

TINY_MODELS = ("tiny_shared", "tiny_unshared", "tiny_asym")
ATOL = 5e-5
PAD = 1


@functools.cache
def _model(name: str) -> SuperTransformer:
    return space0_super_transformer() if name == "space0_recipe" else tiny_super_transformer(name)


@functools.cache
def _outputs(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / name / "outputs.safetensors")


def _pairs() -> list[tuple[str, str, str]]:
    tiny = [(m, c, b) for m in TINY_MODELS for c in hat_configs(m) for b in read_json(m, "batches.json")]
    return tiny + [("space0_recipe", c, "") for c in hat_configs("space0_recipe")]


def _batch(model: str, name: str) -> dict[str, torch.Tensor]:
    batch = read_json(model, "batches.json")[name or "leftpad"]
    return {key: torch.tensor(value) for key, value in batch.items()}


@pytest.mark.parametrize(("model", "config_name", "batch_name"), _pairs())
def test_encoder_output_and_logits(model: str, config_name: str, batch_name: str) -> None:
    """Encoder outputs and logits equal the reference's, padding on either side included."""
    sub = _model(model).extract(hat_configs(model)[config_name])
    batch = _batch(model, batch_name)
    key = f"{config_name}/{batch_name}" if batch_name else config_name
    with torch.no_grad():
        encoded = sub.encode(batch["src_tokens"])
        logits = sub.output(sub.decode(encoded, batch["prev_output_tokens"]))
    torch.testing.assert_close(
        encoded.last_BSE.transpose(0, 1), _outputs(model)[f"{key}/encoder_out"], atol=ATOL, rtol=0
    )
    torch.testing.assert_close(logits, _outputs(model)[f"{key}/logits"], atol=ATOL, rtol=0)


@pytest.mark.parametrize(("model", "config_name"), [(m, c) for m in TINY_MODELS for c in hat_configs(m)])
def test_every_encoder_layer(model: str, config_name: str) -> None:
    """Every super encoder layer's output equals the reference's; skipped layers repeat the last active one."""
    sub = _model(model).extract(hat_configs(model)[config_name])
    layers = sub.encode(_batch(model, "leftpad")["src_tokens"]).layers_BSE
    for i, layer_BSE in enumerate(layers):
        expected = _outputs(model)[f"{config_name}/leftpad/encoder_layer{i}"]
        torch.testing.assert_close(layer_BSE.transpose(0, 1), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize(("model", "config_name", "batch_name"), _pairs())
def test_loss(model: str, config_name: str, batch_name: str) -> None:
    """Label-smoothed loss and nll sums equal the reference's."""
    sub = _model(model).extract(hat_configs(model)[config_name])
    batch = _batch(model, batch_name)
    meta = read_json(model, "meta.json")[config_name]
    expected = meta["loss"][batch_name] if batch_name else meta
    features = sub.decode(sub.encode(batch["src_tokens"]), batch["prev_output_tokens"])
    real = batch["target"].ne(PAD)
    loss = smoothed_cross_entropy(features[real], sub.output.weight_OI, batch["target"][real], 0.1)
    assert loss.smoothed.item() == pytest.approx(expected["loss_sum"], rel=1e-5)
    assert loss.nll.item() == pytest.approx(expected["nll_sum"], rel=1e-5)


@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/grads_*.safetensors")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_gradients(path) -> None:
    """Gradients reach exactly the sampled slice of exactly the sampled layers, with the reference's values.

    In float64: in float32 one ReLU near zero may fall on the other side and move every gradient behind it.
    """
    model, config_name = path.parent.name, path.stem.removeprefix("grads_")
    tiny = tiny_super_transformer(model)
    super_transformer = SuperTransformer(tiny.spec, {name: w.double() for name, w in tiny.weights.items()})
    for weight in super_transformer.parameters():
        weight.requires_grad_()
    sub = super_transformer.extract_for_training(hat_configs(model)[config_name], NO_DROPOUT)
    batch = _batch(model, "leftpad")
    real = batch["target"].ne(PAD)
    features = sub.decode(sub.encode(batch["src_tokens"]), batch["prev_output_tokens"])
    smoothed_cross_entropy(
        features[real], sub.output.weight_OI, batch["target"][real], 0.1
    ).smoothed.backward()
    expected = weights_from_hat(load_file(path))
    got = {name: weight.grad for name, weight in super_transformer.weights.items() if weight.grad is not None}
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(
            gradient.float(), expected[name], atol=1e-4, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("model", "config_name"), [(m, c) for m in (*TINY_MODELS, "space0_recipe") for c in hat_configs(m)]
)
def test_features_and_parameter_count(model: str, config_name: str) -> None:
    """The ten latency features and HAT's parameter count equal the reference's."""
    config = hat_configs(model)[config_name]
    meta = read_json(model, "meta.json")[config_name]
    assert list(latency_features(config)) == pytest.approx(meta["features"])
    if meta["params_no_embed"] is not None:
        assert _model(model).spec.design_space.num_parameters(config) == meta["params_no_embed"]
