"""What the program and the commands are made of. Inside, a package imports only packages to its right:
run, data_check, corpora, evaluation, speech, adapters, training."""

__version__ = "0.1.0"
