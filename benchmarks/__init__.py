"""Measured claims, one command each; may import everything but tests."""
