"""The parts of one training run. This package imports no other package of ``voice_cloning``."""
