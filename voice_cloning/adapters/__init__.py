"""Adapters after training: renaming, merging, comparing logits, model cards; imports training."""
