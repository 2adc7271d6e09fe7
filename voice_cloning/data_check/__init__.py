"""Finds what is wrong with training data; imports corpora and what stands to the right of it."""
