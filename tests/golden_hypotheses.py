"""The reference's hypotheses, and whether a decoder finds them."""

from __future__ import annotations

import pytest
import torch

from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions, Hypothesis
from dynhat_runtime.model.decodable import Decodable
from tests.golden import read_json

EOS, PAD = 2, 1
MODELS = ("tiny_shared", "tiny_unshared", "tiny_asym", "space0_recipe")


def golden_cases() -> list[tuple[str, str, str]]:
    """Model, architecture and settings of every search that the reference made."""
    return [
        (m, c, s) for m in MODELS for c, settings in read_json(m, "generation.json").items() for s in settings
    ]


@torch.inference_mode()
def search(
    sub: Decodable, src: torch.Tensor, options: BeamOptions, max_lengths: list[int]
) -> list[list[Hypothesis]]:
    """Every sentence's hypotheses."""
    return beam_search(sub.start(sub.encode(src), options.beam_size), max_lengths, options)


def assert_finds_golden(sub: Decodable, model: str, config: str, setting: str) -> None:
    """Tokens and scores equal the reference's wherever the reference itself is stable."""
    golden = read_json(model, "generation.json")[config][setting]
    settings = golden["settings"]
    src = torch.tensor(read_json(model, "batches.json")["leftpad"]["src_tokens"])
    cap = int(settings["max_len_a"] * src.shape[1] + settings["max_len_b"])
    options = BeamOptions(settings["beam"], settings["lenpen"], settings.get("min_len", 1), EOS, PAD)
    found = search(sub, src, options, [cap] * src.shape[0])
    num_compared = 0
    if golden.get("stable_all_under_1e-5_noise", True):
        num_compared = settings["beam"]
    elif golden["stable_top1_under_1e-5_noise"]:
        num_compared = 1
    for mine, theirs in zip(found, golden["hypotheses"], strict=True):
        for hypothesis, expected in list(zip(mine, theirs, strict=False))[:num_compared]:
            assert list(hypothesis.tokens) == expected["tokens"]
            assert hypothesis.score == pytest.approx(expected["score"], abs=1e-4)
            assert hypothesis.token_scores == pytest.approx(expected["positional_scores"], abs=1e-3)
