"""One optimiser update of a SuperTransformer, and the learning-rate schedule. Knows no files and no progress bars.

An update draws SubTransformers, sums their losses over its micro-batches, normalises the gradient by the number
of target tokens and steps Adam. Layers that no drawn SubTransformer uses have no gradient and are skipped (HAT).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dynhat_runtime.decoding.tokenizer import PAD_ID
from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.model.super_transformer import NO_DROPOUT, DropoutRates, SuperTransformer
from dynhat_runtime.offline.data import Batch
from dynhat_runtime.offline.loss import LossSums, Teacher, smoothed_cross_entropy
from dynhat_runtime.offline.recipe import OptimizerRecipe, Recipe, SamplingRecipe


def spec_of(recipe: Recipe, vocab_size: int) -> SuperTransformerSpec:
    """Shape of the weights that `recipe` trains."""
    return SuperTransformerSpec(
        design_space=recipe.model.space,
        src_vocab_size=vocab_size,
        tgt_vocab_size=vocab_size,
        norm_first=recipe.model.norm_first,
        max_positions=recipe.model.max_positions,
        pad_id=PAD_ID,
    )


def learning_rate(recipe: OptimizerRecipe, update: int) -> float:
    """Learning rate of update number `update`, counted from 0: linear warm-up, then the recipe's decay."""
    warmup = recipe.num_warmup_updates
    if update < warmup:
        return recipe.initial_lr + (recipe.peak_lr - recipe.initial_lr) * update / warmup
    if recipe.schedule == "inverse_sqrt":
        return recipe.peak_lr * math.sqrt(max(warmup, 1) / max(update, 1))
    progress = min(1.0, (update - warmup) / max(1, recipe.max_updates - warmup))
    return recipe.final_lr + 0.5 * (recipe.peak_lr - recipe.final_lr) * (1 + math.cos(math.pi * progress))


def draw_configs(space: DesignSpace, recipe: SamplingRecipe, update: int) -> tuple[SubTransformerConfig, ...]:
    """The SubTransformers that update number `update` trains, the same in every process.

    Rules: (1) fixed: the recipe's one architecture. (2) sandwich: the largest, the smallest, then drawn ones.
    (3) single: one drawn one. A draw is an anchor with its share and uniform otherwise; a single one without anchors
    is HAT's sampling, seeded by the update number.
    """
    if recipe.fixed is not None:
        return (recipe.fixed.config,)
    rng = random.Random(update)
    if recipe.strategy == "sandwich":
        drawn = (_drawn_config(space, recipe, rng) for _ in range(recipe.num_random))
        return (space.largest(), space.smallest(), *drawn)
    return (_drawn_config(space, recipe, rng),)


def _drawn_config(space: DesignSpace, recipe: SamplingRecipe, rng: random.Random) -> SubTransformerConfig:
    if recipe.anchors:
        draw = rng.random()
        for anchor in recipe.anchors:
            if draw < anchor.share:
                return anchor.config(space)
            draw -= anchor.share
    return space.sample(rng)


def configs_to_validate(space: DesignSpace, recipe: SamplingRecipe) -> dict[str, SubTransformerConfig]:
    """The largest and the smallest SubTransformer that the recipe trains; both are the fixed one where there is one."""
    if recipe.fixed is not None:
        return {"largest": recipe.fixed.config, "smallest": recipe.fixed.config}
    return {"largest": space.largest(), "smallest": space.smallest()}


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update saw; losses are per target token, natural logarithm, of the first SubTransformer drawn."""

    loss: float
    nll: float
    num_target_tokens: int
    gradient_norm: float
    learning_rate: float


class Trainer:
    """Holds the optimiser of one SuperTransformer.

    In a `torchrun` process group every process is given its own micro-batches of an update; gradients and
    token counts are summed over processes, so the result is that of one process with all of them.
    """

    def __init__(self, super_transformer: SuperTransformer, recipe: Recipe) -> None:
        self.super_transformer = super_transformer
        self.recipe = recipe
        self.space = super_transformer.spec.design_space
        self.parameters = list(super_transformer.parameters())
        for parameter in self.parameters:
            parameter.requires_grad_()
        options = recipe.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=options.peak_lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=options.weight_decay,
            foreach=True,
        )
        self.device = self.parameters[0].device
        self.rounded = _rounded_copy(super_transformer) if recipe.loop.precision == "bf16" else None
        use_scaler = recipe.loop.precision == "fp16" and self.device.type == "cuda"
        self.scaler = _gradient_scaler(use_scaler)
        self.dropout = DropoutRates(
            options.residual_dropout, options.attention_dropout, options.activation_dropout
        )
        self.distributed = dist.is_available() and dist.is_initialized()

    def update(self, update: int, batches: Sequence[Batch]) -> UpdateReport:
        """Train on this process's micro-batches of update number `update`, counted from 0.

        Raises:
            TrainingError: The loss is not finite.
        """
        rank = dist.get_rank() if self.distributed else 0
        torch.manual_seed(hash((self.recipe.loop.seed, update, rank)) & 0x7FFFFFFF)
        configs = draw_configs(self.space, self.recipe.sampling, update)
        self.optimizer.zero_grad(set_to_none=True)
        self._round_weights()
        sums = torch.zeros(3, dtype=torch.float64)  # loss, nll, target tokens
        for batch in batches:
            loss = self._accumulate(configs, batch.to(self.device))
            sums += torch.tensor(
                [loss.smoothed.item(), loss.nll.item(), batch.num_target_tokens], dtype=torch.float64
            )
        self._take_gradients()
        sums = self._sum_over_processes(sums)
        num_tokens = int(sums[2])
        if not math.isfinite(float(sums[0])) and not self.scaler.is_enabled():
            raise TrainingError(
                f"loss is {float(sums[0])} at update {update}: lower peak_lr or raise num_warmup_updates"
            )
        lr = learning_rate(self.recipe.optimizer, update)
        norm = self._step(num_tokens, lr)
        return UpdateReport(float(sums[0]) / num_tokens, float(sums[1]) / num_tokens, num_tokens, norm, lr)

    def _accumulate(self, configs: Sequence[SubTransformerConfig], batch: Batch) -> LossSums:
        """Add the gradients of every drawn SubTransformer on one micro-batch; return the first one's loss."""
        network = self.super_transformer if self.rounded is None else self.rounded
        first: LossSums | None = None
        distil = self.recipe.sampling.distillation_weight if len(configs) > 1 else 0.0
        teacher = self._single_teacher(network, batch) if configs != (self.space.largest(),) else None
        for config in configs:
            sub = network.extract_for_training(config, self.dropout)
            with self._autocast():
                features_NE, targets_N = target_features(sub, batch)
            features_NE, output_VE = features_NE.float(), sub.output.weight_OI.float()
            smoothing = self.recipe.optimizer.label_smoothing
            loss = smoothed_cross_entropy(features_NE, output_VE, targets_N, smoothing, teacher)
            if distil and teacher is None:
                teacher = Teacher(features_NE.detach(), output_VE.detach(), distil)
            self.scaler.scale(loss.smoothed).backward()
            first = first or loss
        assert first is not None
        return first

    @torch.no_grad()
    def _single_teacher(self, network: SuperTransformer, batch: Batch) -> Teacher | None:
        """The largest on one micro-batch without dropout, where the recipe lets single draws learn from it."""
        sampling = self.recipe.sampling
        if not sampling.teach_single:
            return None
        largest = network.extract_for_training(self.space.largest(), NO_DROPOUT)
        with self._autocast():
            features_NE, _ = target_features(largest, batch)
        return Teacher(features_NE.float(), largest.output.weight_OI.float(), sampling.distillation_weight)

    def _autocast(self) -> AbstractContextManager[None]:
        use_half = self.recipe.loop.precision == "fp16"
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=use_half)

    @torch.no_grad()
    def _round_weights(self) -> None:
        """bf16: let the copy that the passes read be the weights of this update."""
        if self.rounded is not None:
            copies = list(self.rounded.parameters())
            torch._foreach_copy_(copies, self.parameters)
            for copy in copies:
                copy.grad = None

    def _take_gradients(self) -> None:
        """bf16: the copy's gradients become those of the weights."""
        if self.rounded is not None:
            for parameter, copy in zip(self.parameters, self.rounded.parameters(), strict=True):
                parameter.grad = None if copy.grad is None else copy.grad.float()

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        if self.distributed:
            tensor = tensor.to(self.device)
            dist.all_reduce(tensor)
            return tensor.cpu()
        return tensor

    def _step(self, num_tokens: int, lr: float) -> float:
        """Normalise, clip and apply the accumulated gradient; return its norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.distributed:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))) / num_tokens
        clip = self.recipe.optimizer.clip_norm
        scale = 1.0 / num_tokens
        if clip and norm > clip:
            scale *= clip / norm
        torch._foreach_mul_(gradients, scale)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm


def _rounded_copy(super_transformer: SuperTransformer) -> SuperTransformer:
    """The network that bf16 passes run: rounded once per update, not at every use, and one rounding for all that is
    drawn. The optimiser keeps single precision (Micikevicius et al. 2018, "master weights")."""
    weights = {
        name: weight.detach().bfloat16().requires_grad_()
        for name, weight in super_transformer.weights.items()
    }
    return SuperTransformer(super_transformer.spec, weights)


def _gradient_scaler(is_enabled: bool) -> Any:
    """fp16's loss scaler, by the name this torch has for it (torch.amp since 2.3)."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=is_enabled)
    return torch.cuda.amp.GradScaler(enabled=is_enabled)


def target_features(sub: SubTransformer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Decoder features (N, E) and token ids (N) of the batch's real target positions."""
    features_BTE = sub.decode(sub.encode(batch.src_BS), batch.prev_output_BT)
    is_token_BT = batch.target_BT.ne(sub.pad_id)
    return features_BTE[is_token_BT], batch.target_BT[is_token_BT]


@torch.no_grad()
def evaluate_loss(
    super_transformer: SuperTransformer,
    config: SubTransformerConfig,
    batches: Sequence[Batch],
    label_smoothing: float,
) -> LossSums:
    """Mean loss per target token of one SubTransformer, without dropout."""
    sub = super_transformer.extract_for_training(config, NO_DROPOUT)
    device = super_transformer.weights["encoder.embedding"].device
    smoothed = nll = torch.zeros(())
    num_tokens = 0
    for batch in batches:
        features_NE, targets_N = target_features(sub, batch.to(device))
        loss = smoothed_cross_entropy(features_NE, sub.output.weight_OI, targets_N, label_smoothing)
        smoothed, nll = smoothed + loss.smoothed.cpu(), nll + loss.nll.cpu()
        num_tokens += batch.num_target_tokens
    return LossSums(smoothed / num_tokens, nll / num_tokens)
