"""How speech is judged: test sets, recognisers, figures, reports. It may import speech, adapters and training."""
