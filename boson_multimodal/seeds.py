"""Compute a seed from numbers."""

import hashlib


def seed_of(*numbers: int) -> int:
    """Return a 63-bit seed that is different for every tuple of numbers and equal on every machine."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "big") >> 1
