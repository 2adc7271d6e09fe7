"""Data for training: see what is wrong with it, make it, clean its text, encode its audio."""
