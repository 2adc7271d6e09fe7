"""The set-up of one training run; imported by the program alone, imports every other package of voice_cloning."""
