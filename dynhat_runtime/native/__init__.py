"""The native decoder: encoder, decoding step and beam search in C++, and the one Python door to them (`library`).

Knows arrays, not tensors: torch stays outside, so that building needs a C++ compiler and nothing else. Optional: what
uses it must do without it.
"""
