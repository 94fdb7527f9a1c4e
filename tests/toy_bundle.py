"""A bundle of the toy space with random weights."""

from __future__ import annotations

from pathlib import Path

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle, write_bundle
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from tests.toy_text import VOCAB_SIZE, toy_tokenizer_model
from tests.toy_training import TOY_SPACE


def toy_super_transformer(seed: int = 1) -> SuperTransformer:
    """Random weights."""
    space = DesignSpace.model_validate(TOY_SPACE)
    spec = SuperTransformerSpec(
        design_space=space, src_vocab_size=VOCAB_SIZE, tgt_vocab_size=VOCAB_SIZE, max_positions=128
    )
    return SuperTransformer.random(spec, seed)


def write_toy_bundle(path: Path) -> Bundle:
    """A bundle without operating points."""
    super_transformer = toy_super_transformer()
    return write_bundle(
        path,
        name="toy",
        languages=("en", "de"),
        spec=super_transformer.spec,
        weights=super_transformer.weights,
        text_files={SENTENCEPIECE_MODEL: toy_tokenizer_model()},
        training_record={"data": []},
        max_src_tokens=60,
    )
