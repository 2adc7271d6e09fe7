"""Commands for training data: build it, check it, normalise its texts, encode its audio, pack it."""
