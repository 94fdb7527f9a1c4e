"""Decide: which operating point fits the resources. Pure: no clock, no torch, no I/O.

A module belongs here if the same arguments always give the same answer. Time arrives in the snapshot.
"""
