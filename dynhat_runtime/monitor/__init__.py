"""Sense: readings of the device as `ResourceSnapshot` values. Decides nothing."""
