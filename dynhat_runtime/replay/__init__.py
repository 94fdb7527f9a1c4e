"""A recorded trace through the governor again, in virtual time: what it decides, what that would have meant.

A module belongs here if it works on a trace. Knows no clock, no engine and no daemon; the same trace and options give
the same files, byte for byte.
"""
