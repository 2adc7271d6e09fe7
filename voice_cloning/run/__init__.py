"""The set-up of one training run. Only the trainer imports it. It may import every other package of voice_cloning."""
