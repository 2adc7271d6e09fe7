"""Sound files, clips, the codec, and the caches of its codes."""
