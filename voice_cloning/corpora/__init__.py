"""Makes training data from recordings and texts; of voice_cloning it imports evaluation, speech, adapters, training."""
