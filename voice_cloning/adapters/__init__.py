"""Export adapters after training: rename or merge them, compare logits, write model cards. May import training."""
