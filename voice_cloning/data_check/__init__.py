"""Finds defects in training data; of voice_cloning it imports corpora, evaluation, speech, adapters and training."""
