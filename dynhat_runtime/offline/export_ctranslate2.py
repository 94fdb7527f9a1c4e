"""`dynhat export-ctranslate2`: one operating point as a CTranslate2 model, where CTranslate2 can express it.

The only importer of ctranslate2 (extra `[bench]`), used to compare speed and to check our search from outside.

CTranslate2's Transformer has one number of heads in the encoder and one in the decoder, for self- and
cross-attention, and a decoder that reads the last encoder layer only. Depths, embedding widths, norm placement, a
q/k/v width of its own and feed-forward widths per layer are free. What does not fit is refused, never approximated.

Two rules of our search are the caller's to set when translating with the result: pad is never produced
(`suppress_sequences=[["<pad>"]]`) and nothing forces eos at the cap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from dynhat_runtime.decoding.tokenizer import BOS_ID, EOS_ID, UNK_ID, tokenizer_of
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, SettingsError
from dynhat_runtime.model.attention import CrossAttention, SelfAttention
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.elastic import LAYER_NORM_EPS, Embedding, LayerNorm, Linear
from dynhat_runtime.model.layers import FeedForward
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.offline.point_selection import point_called

QUANTIZATIONS = (
    "float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16",
)  # fmt: skip


class Vocabulary(Protocol):
    """What tokens are called; every tokenizer knows it."""

    def src_pieces(self) -> list[str]:
        """Source tokens by id."""

    def tgt_pieces(self) -> list[str]:
        """Target tokens by id."""


def export_point(bundle_path: Path, point_id: str, out: Path, quantization: str = "float32") -> Path:
    """Write operating point `point_id` of a bundle as a CTranslate2 model into the new folder `out`.

    Raises:
        BundleError: The bundle cannot be read.
        UnknownOperatingPointError: Listing the points there are.
        DesignSpaceError: CTranslate2 cannot express its architecture; names the layer and the value.
        SettingsError: `out` exists, the quantization is unknown, or ctranslate2 is not installed.
    """
    bundle = Bundle.open(bundle_path)
    point = point_called(bundle.table(), point_id)
    reason = why_not(point.config)
    if reason is not None:
        raise DesignSpaceError(f"{point_id}: CTranslate2 cannot express it: {reason}")
    sub = bundle.super_transformer().extract(point.config)
    write_model(sub, tokenizer_of(bundle), out, quantization)
    return out


def why_not(config: SubTransformerConfig) -> str | None:
    """Why CTranslate2 cannot express `config`: the first layer that does not fit and its value; None if it can.

    Rules, in order:
        1. Every encoder layer has the first one's number of heads.
        2. Every decoder layer has the first one's number of heads ...
        3. ... in its cross-attention too.
        4. Every cross-attention span is 1.
    """
    for number, heads in enumerate(config.encoder_attention_heads, start=1):
        if heads != config.encoder_attention_heads[0]:
            return (
                f"encoder layer {number} has {heads} heads, layer 1 has {config.encoder_attention_heads[0]};"
                " it needs one number for all"
            )
    wanted = config.decoder_attention_heads[0]
    for kind, all_heads in (
        ("self-attention", config.decoder_attention_heads),
        ("cross-attention", config.cross_attention_heads),
    ):
        for number, heads in enumerate(all_heads, start=1):
            if heads != wanted:
                return (
                    f"decoder layer {number} has {heads} {kind} heads, layer 1's self-attention has {wanted};"
                    " it needs one number for all"
                )
    for number, span in enumerate(config.cross_attention_spans, start=1):
        if span != 1:
            return f"decoder layer {number} has cross-attention span {span}; it needs span 1"
    return None


def write_model(
    sub: SubTransformer, vocabulary: Vocabulary, out: Path, quantization: str = "float32"
) -> None:
    """Write a SubTransformer that CTranslate2 can express (`why_not`) into the new folder `out`.

    Raises:
        SettingsError: `out` exists, the quantization is unknown, or ctranslate2 is not installed.
    """
    if quantization not in QUANTIZATIONS:
        raise SettingsError(
            f"quantization {quantization!r} is unknown: choose one of {', '.join(QUANTIZATIONS)}"
        )
    if out.exists():
        raise SettingsError(f"{out}: exists already: give --out a folder that does not")
    spec = _spec_of(sub, vocabulary)
    spec.validate()
    spec.optimize(quantization=quantization)
    try:
        out.mkdir(parents=True)
        spec.save(str(out))
    except OSError as error:
        raise SettingsError(
            f"{out}: cannot be written ({error.strerror}): give --out a folder you may write to"
        ) from error


def _spec_of(sub: SubTransformer, vocabulary: Vocabulary) -> Any:
    try:
        from ctranslate2.specs import transformer_spec
    except ImportError:
        raise SettingsError("ctranslate2 is not installed: pip install 'dynhat-runtime[bench]'") from None
    config, norm_first = sub.config, sub.encoder_norm is not None
    qkv_dim = sub.decoder_layers[0].self_attention.out.weight_OI.shape[1]
    enc_heads, dec_heads = config.encoder_attention_heads[0], config.decoder_attention_heads[0]
    encoder = transformer_spec.TransformerEncoderSpec(
        config.num_encoder_layers, enc_heads, pre_norm=norm_first, head_dim=qkv_dim // enc_heads
    )
    decoder = transformer_spec.TransformerDecoderSpec(
        config.num_decoder_layers, dec_heads, pre_norm=norm_first, head_dim=qkv_dim // dec_heads
    )
    _set_embedding(encoder.embeddings[0], encoder.position_encodings, sub.src_embedding)
    for enc_spec, enc_layer in zip(encoder.layer, sub.encoder_layers, strict=True):
        _set_self_attention(enc_spec.self_attention, enc_layer.self_attention)
        _set_norm(enc_spec.self_attention.layer_norm, enc_layer.self_attention_residual.norm)
        _set_feed_forward(enc_spec.ffn, enc_layer.feed_forward, enc_layer.feed_forward_residual.norm)
    _set_embedding(decoder.embeddings, decoder.position_encodings, sub.tgt_embedding)
    for dec_spec, dec_layer in zip(decoder.layer, sub.decoder_layers, strict=True):
        _set_self_attention(dec_spec.self_attention, dec_layer.self_attention)
        _set_norm(dec_spec.self_attention.layer_norm, dec_layer.self_attention_residual.norm)
        _set_cross_attention(dec_spec.attention, dec_layer.cross_attention)
        _set_norm(dec_spec.attention.layer_norm, dec_layer.cross_attention_residual.norm)
        _set_feed_forward(dec_spec.ffn, dec_layer.feed_forward, dec_layer.feed_forward_residual.norm)
    if sub.encoder_norm is not None and sub.decoder_norm is not None:
        _set_norm(encoder.layer_norm, sub.encoder_norm)
        _set_norm(decoder.layer_norm, sub.decoder_norm)
    _set_linear(decoder.projection, sub.output)
    spec = transformer_spec.TransformerSpec(encoder, decoder)
    _set_vocabularies(spec, vocabulary)
    return spec


def _set_vocabularies(spec: Any, vocabulary: Vocabulary) -> None:
    """Our pieces by id; sources end in eos and targets begin with it."""
    pieces = vocabulary.tgt_pieces()
    spec.register_source_vocabulary(vocabulary.src_pieces())
    spec.register_target_vocabulary(pieces)
    spec.config.bos_token, spec.config.eos_token = pieces[BOS_ID], pieces[EOS_ID]
    spec.config.unk_token, spec.config.decoder_start_token = pieces[UNK_ID], pieces[EOS_ID]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = LAYER_NORM_EPS


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()


def _set_linear(spec: Any, linear: Linear) -> None:
    spec.weight = _array(linear.weight_OI)
    if linear.bias_O is not None:
        spec.bias = _array(linear.bias_O)


def _set_norm(spec: Any, norm: LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight_E), _array(norm.bias_E)


def _set_embedding(spec: Any, position_spec: Any, embedding: Embedding) -> None:
    """Its positions begin with the first token's, ours with the rows up to the padding's."""
    spec.weight = _array(embedding.table_VE)
    position_spec.encodings = _array(embedding.positions_PE[embedding.pad_id + 1 :])


def _set_self_attention(spec: Any, attention: SelfAttention) -> None:
    _set_linear(spec.linear[0], attention.qkv)
    _set_linear(spec.linear[1], attention.out)


def _set_cross_attention(spec: Any, attention: CrossAttention) -> None:
    _set_linear(spec.linear[0], attention.query)
    _set_linear(spec.linear[1], attention.key_value)
    _set_linear(spec.linear[2], attention.out)


def _set_feed_forward(spec: Any, feed_forward: FeedForward, norm: LayerNorm) -> None:
    _set_norm(spec.layer_norm, norm)
    _set_linear(spec.linear_0, feed_forward.expand)
    _set_linear(spec.linear_1, feed_forward.contract)
