"""The CTranslate2 model says what our SubTransformer says; what it cannot express is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, SettingsError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.export_ctranslate2 import export_point, why_not, write_model
from tests.tiny_bundle import SENTENCES, SPACE

ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 (extra [bench]) is not installed")
MAX_TOKENS = 40
TIED = 1e-4


def _config(
    enc_dim: int = 24, dec_dim: int = 24, enc_heads: int = 4, dec_heads: int = 4
) -> SubTransformerConfig:
    return SPACE.largest().model_copy(
        update={
            "encoder_embed_dim": enc_dim,
            "decoder_embed_dim": dec_dim,
            "encoder_ffn_dims": (32, 16),
            "decoder_ffn_dims": (16, 32, 16),
            "encoder_attention_heads": (enc_heads,) * 2,
            "decoder_attention_heads": (dec_heads,) * 3,
            "cross_attention_heads": (dec_heads,) * 3,
            "cross_attention_spans": (1,) * 3,
        }
    )


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize(
    ("norm_first", "config"),
    [
        (False, _config()),
        (True, _config()),
        (False, _config(dec_dim=16, enc_heads=2)),
        (True, _config(enc_dim=16, dec_heads=2)),
    ],
)
def test_same_tokens(
    tiny_bundle: Bundle, tmp_path: Path, norm_first: bool, config: SubTransformerConfig, beam_size: int
) -> None:
    """Greedy and beam search give the same tokens, widths and heads of encoder and decoder differing or not."""
    tokenizer = SentencePieceTokenizer(tiny_bundle.text_file(SENTENCEPIECE_MODEL))
    size = tokenizer.src_vocab_size
    spec = SuperTransformerSpec(
        design_space=SPACE, src_vocab_size=size, tgt_vocab_size=size, norm_first=norm_first,
        max_positions=64, tied_embeddings="none",
    )  # fmt: skip
    model = SuperTransformer.random(spec, seed=3)
    generator = torch.Generator().manual_seed(3)
    for weight in model.weights.values():  # biases and norms that matter
        weight += 0.3 * torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
    model.weights["decoder.output"][2] *= 4.0  # outputs end
    sub = model.extract(config)
    write_model(sub, tokenizer, tmp_path / "model")
    theirs = ctranslate2.Translator(str(tmp_path / "model"), intra_threads=1)
    pieces = tokenizer.tgt_pieces()
    num_compared = 0
    for sentence in SENTENCES[::12]:
        ids = tokenizer.encode(sentence)
        with torch.inference_mode():
            decoder = sub.start(sub.encode(torch.tensor([[*ids, 2]])), beam_size)
            best = beam_search(decoder, [MAX_TOKENS], BeamOptions(beam_size=beam_size))[0][0]
            scores = sub.logits(torch.tensor([[*ids, 2]]), torch.tensor([[2, *best.tokens[:-1]]]))[0]
        if beam_size > 1 and len(best.tokens) > MAX_TOKENS:
            continue  # eos was forced, which CTranslate2 does not do; greedy search still compares these
        first, second = scores.topk(2, dim=1).values[:MAX_TOKENS].unbind(1)
        if beam_size == 1 and float((first - second).min()) < TIED:
            continue  # two tokens are equally good; rounding decides, and it is another's
        (result,) = theirs.translate_batch(
            [[pieces[i] for i in ids]], beam_size=beam_size, length_penalty=0.6,
            max_decoding_length=MAX_TOKENS, suppress_sequences=[["<pad>"]],
        )  # fmt: skip
        assert result.hypotheses[0] == [pieces[i] for i in best.tokens[:-1]]
        num_compared += 1
    assert num_compared >= (3 if beam_size > 1 else 15)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("encoder_attention_heads", (4, 2), "encoder layer 2 has 2 heads, layer 1 has 4"),
        ("decoder_attention_heads", (4, 4, 2), "decoder layer 3 has 2 self-attention heads"),
        ("cross_attention_heads", (4, 2, 4), "decoder layer 2 has 2 cross-attention heads"),
        ("cross_attention_spans", (1, 1, 2), "decoder layer 3 has cross-attention span 2; it needs span 1"),
    ],
)
def test_reasons(field: str, value: tuple[int, ...], reason: str) -> None:
    """The first layer that does not fit is named with its value."""
    why = why_not(_config().model_copy(update={field: value}))
    assert why is not None
    assert why.startswith(reason)
    assert why_not(_config()) is None


def test_point_that_does_not_fit(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A point with a wider span is refused in one line, and nothing is written."""
    with pytest.raises(DesignSpaceError, match=r"^large: CTranslate2 cannot express it: .*span 2.*$"):
        export_point(tiny_bundle.path, "large", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refused_settings(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """An unknown quantization and a folder that exists are refused by name."""
    with pytest.raises(SettingsError, match="quantization 'int3' is unknown: choose one of float32"):
        export_point(tiny_bundle.path, "small", tmp_path / "out", "int3")
    with pytest.raises(SettingsError, match="exists already"):
        export_point(tiny_bundle.path, "small", tmp_path)


def test_command_writes_a_model(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The command converts a point, quantized on request, into a folder that CTranslate2 opens."""
    out = tmp_path / "int8"
    arguments = ["export-ctranslate2", "small", "--bundle", str(tiny_bundle.path), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--quantization", "int8"])
    assert result.exit_code == 0, result.output
    (translated,) = ctranslate2.Translator(str(out)).translate_batch([["▁The"]], max_decoding_length=4)
    assert len(translated.hypotheses[0]) <= 4
