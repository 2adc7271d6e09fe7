"""Commands only: ``python -m tools.NAME``; imports voice_cloning and what stands below it."""
