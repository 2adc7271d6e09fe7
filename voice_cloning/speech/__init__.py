"""Speaks with a model and an adapter; imports adapters and training."""
