"""The C structures of `csrc/network.h`, field by field. Computes nothing."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p


class Matrix(Structure):
    """The leading part of a packed matrix."""

    _fields_ = (
        ("panels", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("num_out", c_int32),
        ("num_in", c_int32),
        ("panel_inputs", c_int32),
        ("is_int8", c_int32),
    )


class Norm(Structure):
    """A layer norm; dim 0 where there is none."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("dim", c_int64))


class SelfAttention(Structure):
    """Attention of a sequence over itself, with its norm."""

    _fields_ = (("qkv", Matrix), ("out", Matrix), ("norm", Norm), ("num_heads", c_int64))


class CrossAttention(Structure):
    """Attention of the decoder over encoder outputs, with its norm."""

    _fields_ = (
        ("query", Matrix),
        ("key_value", Matrix),
        ("out", Matrix),
        ("norm", Norm),
        ("num_heads", c_int32),
        ("span", c_int32),
    )


class FeedForward(Structure):
    """Feed-forward network, with its norm."""

    _fields_ = (("expand", Matrix), ("contract", Matrix), ("norm", Norm))


class EncoderLayer(Structure):
    """One layer of the encoder."""

    _fields_ = (("attention", SelfAttention), ("feed_forward", FeedForward))


class DecoderLayer(Structure):
    """One layer of the decoder."""

    _fields_ = (("attention", SelfAttention), ("cross", CrossAttention), ("feed_forward", FeedForward))


class Embedding(Structure):
    """Tables of tokens and positions."""

    _fields_ = (
        ("table", c_void_p),
        ("positions", c_void_p),
        ("table_stride", c_int32),
        ("position_stride", c_int32),
        ("dim", c_int32),
        ("pad_id", c_int32),
        ("vocab_size", c_int32),
        ("num_positions", c_int32),
    )


class Network(Structure):
    """One SubTransformer."""

    _fields_ = (
        ("src", Embedding),
        ("tgt", Embedding),
        ("encoder_layers", POINTER(EncoderLayer)),
        ("decoder_layers", POINTER(DecoderLayer)),
        ("encoder_norm", Norm),
        ("decoder_norm", Norm),
        ("output", Matrix),
        ("num_encoder_layers", c_int32),
        ("num_decoder_layers", c_int32),
        ("num_super_encoder_layers", c_int32),
        ("norm_first", c_int32),
        ("qkv_dim", c_int32),
        ("num_threads", c_int32),
    )
