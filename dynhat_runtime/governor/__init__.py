"""Decide: which operating point fits the resources. Pure: no clock, no torch, no I/O."""
