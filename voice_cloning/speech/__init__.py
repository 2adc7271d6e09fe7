"""Generate speech with a model and an adapter. May import adapters and training."""
