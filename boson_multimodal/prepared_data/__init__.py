"""Immutable files of rows, read through memory maps, and folders of them. It knows nothing of trainers or Arabic."""
