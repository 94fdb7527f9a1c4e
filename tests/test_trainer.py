"""One update at a time: the reference's trajectories, and what an update is made of."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import NO_DROPOUT, SuperTransformer
from dynhat_runtime.offline.data import Batch
from dynhat_runtime.offline.import_hat import config_from_hat, weights_from_hat
from dynhat_runtime.offline.recipe import OptimizerRecipe, Recipe, SamplingRecipe
from dynhat_runtime.offline.trainer import Trainer, draw_configs, evaluate_loss, learning_rate
from tests.golden import GOLDEN, read_json, space_of_choices

STYLES = ("wmt_style", "iwslt_style")
PAD = 1


@functools.cache
def _trajectory(style: str) -> Any:
    return read_json("training", style, "trajectory.json")


def _space(style: str = "wmt_style") -> DesignSpace:
    return space_of_choices(style, 32, _trajectory(style)["choices"])


def _golden_optimizer(style: str) -> dict[str, Any]:
    """The reference's arguments in our words."""
    args = _trajectory(style)["args"]
    return {
        "schedule": args["lr_scheduler"],
        "peak_lr": args.get("max_lr") or args["lr"][0],
        "initial_lr": args["warmup_init_lr"],
        "final_lr": 1e-7,
        "num_warmup_updates": args["warmup_updates"],
        "max_updates": args["max_update"] or 12,
        "eps": args["adam_eps"],
        "weight_decay": args["weight_decay"],
        "clip_norm": args["clip_norm"],
        "label_smoothing": args["label_smoothing"],
        "residual_dropout": 0.0,
        "attention_dropout": 0.0,
    }


def _recipe(style: str = "wmt_style", **sections: dict[str, Any]) -> Recipe:
    """The reference's recipe with changes."""
    corpora = [{"file": "none.tsv.gz"}]
    return Recipe.model_validate(
        {
            "data": {"corpora": corpora, "dev": corpora},
            "model": {"design_space": _space(style).model_dump()},
            "sampling": sections.get("sampling", {}),
            "optimizer": {**_golden_optimizer(style), **sections.get("optimizer", {})},
            "loop": sections.get("loop", {}),
        }
    )


def _super_transformer(style: str = "wmt_style") -> SuperTransformer:
    """The reference's model before its first update."""
    weights = weights_from_hat(load_file(GOLDEN / "training" / style / "weights_initial.safetensors"))
    spec = SuperTransformerSpec(
        design_space=_space(style),
        src_vocab_size=100,
        tgt_vocab_size=100 if style == "wmt_style" else 90,
        tied_embeddings="all" if style == "wmt_style" else "none",
    )
    return SuperTransformer(spec, {name: weight.clone() for name, weight in weights.items()})


def _batch(tokens: dict[str, Any]) -> Batch:
    target_BT = torch.tensor(tokens["target"])
    return Batch(
        torch.tensor(tokens["src_tokens"]),
        torch.tensor(tokens["prev_output_tokens"]),
        target_BT,
        int(target_BT.ne(PAD).sum()),
    )


def _batches(*indices: int, style: str = "wmt_style") -> list[Batch]:
    return [_batch(_trajectory(style)["batches"][i]) for i in indices]


def _joined(first: Batch, second: Batch) -> Batch:
    """Two batches of equal widths as one."""
    return Batch(
        torch.cat([first.src_BS, second.src_BS]),
        torch.cat([first.prev_output_BT, second.prev_output_BT]),
        torch.cat([first.target_BT, second.target_BT]),
        first.num_target_tokens + second.num_target_tokens,
    )


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.super_transformer.weights.items()}


# --- parity with the reference ---


@pytest.mark.parametrize("style", STYLES)
def test_learning_rate_is_the_references(style: str) -> None:
    """Warm-up and decay give the learning rate that the reference used in each of its updates."""
    recipe = OptimizerRecipe(**_golden_optimizer(style))
    updates = _trajectory(style)["updates"]
    ours = [learning_rate(recipe, update["update"]) for update in updates]
    assert ours == pytest.approx([update["lr_used"] for update in updates], rel=1e-9)


@pytest.mark.parametrize("style", STYLES)
def test_drawn_configs_are_the_references(style: str) -> None:
    """Without anchors every update draws the one architecture that the reference drew."""
    for update in _trajectory(style)["updates"]:
        drawn = draw_configs(_space(style), SamplingRecipe(), update["update"])
        assert drawn == (config_from_hat(update["config"]),)


@pytest.mark.parametrize("style", STYLES)
def test_trajectory_is_the_references(style: str) -> None:
    """Twelve updates give the reference's losses, gradient norms, and validation losses after them.

    Float noise grows through Adam: the first update is compared closely, the others within 5e-5, which still
    tells weight decay from none.
    """
    golden = _trajectory(style)
    trainer = Trainer(_super_transformer(style), _recipe(style))
    for update in golden["updates"]:
        number = update["update"]
        report = trainer.update(number, _batches(*update["batches"], style=style))
        rel = 1e-5 if number == 0 else 5e-5
        assert report.num_target_tokens == update["ntokens"]
        assert report.loss / math.log(2) == pytest.approx(update["loss_base2_per_token"], rel=rel), number
        assert report.nll / math.log(2) == pytest.approx(update["nll_base2_per_token"], rel=rel), number
        assert report.gradient_norm == pytest.approx(update["grad_norm_before_clip"], rel=5 * rel), number
    valid = [_batch(batch) for batch in golden["valid_batches"].values()]
    for expected in golden["validation_after"].values():
        loss = evaluate_loss(
            trainer.super_transformer, config_from_hat(expected["config"]), valid, label_smoothing=0.1
        )
        assert loss.smoothed.item() / math.log(2) == pytest.approx(expected["valid_loss_base2"], rel=5e-5)
        assert loss.nll.item() / math.log(2) == pytest.approx(expected["valid_nll_base2"], rel=5e-5)


# --- the schedule ---


def test_warm_up_reaches_the_peak_and_cosine_the_end() -> None:
    """The rate starts at initial_lr, is peak_lr when warm-up ends, falls from there, and ends at final_lr."""
    recipe = OptimizerRecipe(
        peak_lr=1e-2, initial_lr=1e-4, final_lr=1e-3, num_warmup_updates=10, max_updates=50
    )
    rates = [learning_rate(recipe, update) for update in range(60)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[10] == max(rates) == pytest.approx(1e-2)
    assert rates[10:51] == sorted(rates[10:51], reverse=True)
    assert rates[30] == pytest.approx((1e-2 + 1e-3) / 2)
    assert rates[50:] == pytest.approx([1e-3] * 10)


@pytest.mark.parametrize("schedule", ["cosine", "inverse_sqrt"])
def test_no_warm_up(schedule: str) -> None:
    """Without warm-up the first update has the peak rate."""
    recipe = OptimizerRecipe(schedule=schedule, peak_lr=1e-2, num_warmup_updates=0)
    assert learning_rate(recipe, 0) == pytest.approx(1e-2)


# --- what is drawn ---


def test_anchors_get_their_shares() -> None:
    """Each anchor is trained in its share of updates; what is left is drawn uniformly."""
    space = _space()
    anchors = (
        {"size": "largest", "share": 0.5, "num_decoder_layers": 2, "cross_attention_span": 1},
        {"size": "smallest", "share": 0.2},
    )
    recipe = SamplingRecipe.model_validate({"anchors": anchors})
    drawn = Counter(config for update in range(2000) for config in draw_configs(space, recipe, update))
    first, second = (anchor.config(space) for anchor in recipe.anchors)
    assert first.cross_attention_spans == (1, 1)
    assert first.decoder_ffn_dims == (96, 96)
    assert second == space.smallest()
    assert drawn[first] / 2000 == pytest.approx(0.5, abs=0.03)
    assert drawn[second] / 2000 == pytest.approx(0.2, abs=0.03)
    assert len(drawn) > 400


def test_sandwich_draws_largest_smallest_and_random() -> None:
    """A sandwich is the largest, the smallest and as many random architectures as asked, other ones each update."""
    space, recipe = _space(), SamplingRecipe(strategy="sandwich", num_random=2)
    draws = [draw_configs(space, recipe, update) for update in range(3)]
    for largest, smallest, *others in draws:
        assert (largest, smallest) == (space.largest(), space.smallest())
        assert len(others) == 2
    assert len({config for draw in draws for config in draw[2:]}) == 6


def test_a_sandwich_draws_its_anchors() -> None:
    """Beside largest and smallest, each draw of a sandwich is an anchor with its share, another one each time."""
    space = _space()
    anchor = {"size": "largest", "share": 0.6, "encoder_embed_dim": min(space.encoder_embed_dim)}
    recipe = SamplingRecipe.model_validate({"strategy": "sandwich", "num_random": 2, "anchors": [anchor]})
    anchored = recipe.anchors[0].config(space)
    assert (anchored.encoder_embed_dim, anchored.decoder_embed_dim) == (
        min(space.encoder_embed_dim),
        max(space.decoder_embed_dim),
    )
    drawn = [config for update in range(1000) for config in draw_configs(space, recipe, update)[2:]]
    assert drawn.count(anchored) / 2000 == pytest.approx(0.6, abs=0.04)
    assert len(set(drawn)) > 400


# --- what an update does ---


def test_untrained_layers_stay() -> None:
    """Layers beyond the drawn depth are not touched, not even by weight decay."""
    anchor = {"size": "smallest", "share": 1.0}
    trainer = Trainer(
        _super_transformer("iwslt_style"),
        _recipe("iwslt_style", sampling={"anchors": [anchor]}, optimizer={"weight_decay": 0.5}),
    )
    before = _weights(trainer)
    for update in range(2):
        trainer.update(update, _batches(0, style="iwslt_style"))
    changed = _changed(before, _weights(trainer))
    assert changed == {name for name in before if not name.startswith(("decoder.1.", "decoder.2."))}


def test_accumulation_is_one_large_batch() -> None:
    """Two micro-batches make the update of one batch that holds them both."""
    first, second = _batches(0, 1)
    reports, weights = [], []
    for batches in ([first, second], [_joined(first, second)]):
        trainer = Trainer(_super_transformer(), _recipe())
        for update in (4, 5):
            report = trainer.update(update, batches)
        reports.append(report)
        weights.append(_weights(trainer))
    assert reports[0].num_target_tokens == reports[1].num_target_tokens == 50
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=1e-4)
    assert reports[0].gradient_norm == pytest.approx(reports[1].gradient_norm, rel=1e-3)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=2e-3), name


def test_accumulation_normalises_by_tokens() -> None:
    """The gradient of an update is per target token: the same batch twice has the norm of the batch once."""
    norms = [
        Trainer(_super_transformer(), _recipe()).update(0, _batches(*batches)).gradient_norm
        for batches in ((0,), (0, 0))
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_clipping_bounds_the_gradient() -> None:
    """With clip_norm the applied gradient has that norm; the report tells the norm before."""
    trainer = Trainer(_super_transformer(), _recipe(optimizer={"clip_norm": 0.5}))
    report = trainer.update(0, _batches(0))
    gradients = [weight.grad for weight in trainer.parameters if weight.grad is not None]
    applied = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert report.gradient_norm > 1.0
    assert applied == pytest.approx(0.5, rel=1e-5)


def _sandwich_gradients(distillation_weight: float) -> dict[str, torch.Tensor]:
    sampling = {"strategy": "sandwich", "num_random": 1, "distillation_weight": distillation_weight}
    trainer = Trainer(_super_transformer(), _recipe(sampling=sampling))
    trainer.update(3, _batches(0))
    return _gradients(trainer.super_transformer)


def _gradients(model: SuperTransformer) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.weights.items() if weight.grad is not None}


def _norm(gradients: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))


def test_distillation_changes_what_the_students_learn() -> None:
    """Following the largest changes gradients of the shared part; those only the largest has stay as they were."""
    plain, distilled = _sandwich_gradients(0.0), _sandwich_gradients(0.5)
    shared = "encoder.0.feed_forward.expand.weight"
    assert not torch.allclose(plain[shared][:48, :32], distilled[shared][:48, :32], rtol=1e-2)
    random_config = draw_configs(_space(), SamplingRecipe(strategy="sandwich"), 3)[2]
    rows = max(random_config.encoder_ffn_dims[0], 48)
    torch.testing.assert_close(plain[shared][rows:], distilled[shared][rows:])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_single_draw_is_taught_by_the_largest(weight: float) -> None:
    """With teach_single a drawn architecture learns its share from the largest, whose own parts get no gradient."""
    sampling = {
        "anchors": [{"size": "smallest", "share": 1.0}],
        "teach_single": True,
        "distillation_weight": weight,
    }
    trainer, model = Trainer(_super_transformer(), _recipe(sampling=sampling)), _super_transformer()
    trainer.update(0, _batches(0))
    got = _gradients(trainer.super_transformer)

    (batch,), is_token = _batches(0), _batches(0)[0].target_BT != PAD
    for parameter in model.parameters():
        parameter.requires_grad_()
    student = model.extract_for_training(_space().smallest(), NO_DROPOUT)
    log_p = student.logits(batch.src_BS, batch.prev_output_BT)[is_token].log_softmax(dim=1)
    with torch.no_grad():
        taught = model.extract(_space().largest()).logits(batch.src_BS, batch.prev_output_BT)
    distilled = -(taught[is_token].softmax(dim=1) * log_p).sum()
    nll = -log_p.gather(1, batch.target_BT[is_token][:, None]).sum()
    smoothed = 0.9 * nll - 0.1 / log_p.shape[1] * log_p.sum()
    ((1 - weight) * smoothed + weight * distilled).backward()
    expected = _gradients(model)

    assert got.keys() == expected.keys()
    assert not any(name.startswith("decoder.2") for name in got)
    scale = batch.num_target_tokens * _norm(got) / _norm(expected)  # of clipping
    for name, gradient in expected.items():
        torch.testing.assert_close(
            got[name] * batch.num_target_tokens, gradient * scale, rtol=1e-3, atol=1e-4
        )


def test_sandwich_reports_the_largest() -> None:
    """The loss reported of a sandwich is that of its first member, the largest, undistilled."""
    sampling = {"strategy": "sandwich", "num_random": 1, "distillation_weight": 1.0}
    model = _super_transformer()
    expected = evaluate_loss(model, _space().largest(), _batches(0), 0.1)
    report = Trainer(model, _recipe(sampling=sampling)).update(0, _batches(0))
    assert report.loss == pytest.approx(expected.smoothed.item(), rel=1e-5)
    assert report.nll == pytest.approx(expected.nll.item(), rel=1e-5)


def test_dropout_is_seeded_by_update() -> None:
    """With dropout the same update number gives the same loss, another number another."""
    recipe = _recipe(
        optimizer={"residual_dropout": 0.3}, sampling={"anchors": [{"size": "largest", "share": 1}]}
    )

    def loss(update: int) -> float:
        return Trainer(_super_transformer(), recipe).update(update, _batches(0)).loss

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops(value: float) -> None:
    """A loss that is not a number ends training with the update and a remedy, and no weight is touched."""
    model = _super_transformer()
    model.weights["encoder.0.self_attention.qkv.bias"][:] = value
    trainer = Trainer(model, _recipe())
    before = _weights(trainer)
    with pytest.raises(TrainingError, match=r"loss is nan at update 7: lower peak_lr"):
        trainer.update(7, _batches(0))
    after = _weights(trainer)
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def test_bf16_updates_single_precision_weights() -> None:
    """bf16 on the CPU trains: the loss is near that of fp32 and the weights stay float32."""
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(_super_transformer(), _recipe(loop={"precision": precision}))
        losses.append(trainer.update(0, _batches(0, 1)).loss)
        assert {weight.dtype for weight in trainer.parameters} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_evaluation_averages_over_tokens() -> None:
    """Dev loss is per token over all batches, however they are cut, and leaves no gradient."""
    model, config = _super_transformer(), _space().largest()
    first, second = _batches(0, 1)
    cut = evaluate_loss(model, config, [first, second], 0.1)
    whole = evaluate_loss(model, config, [_joined(first, second)], 0.1)
    assert cut.smoothed.item() == pytest.approx(whole.smoothed.item(), rel=1e-5)
    assert cut.nll.item() == pytest.approx(whole.nll.item(), rel=1e-5)
    assert not cut.smoothed.requires_grad
