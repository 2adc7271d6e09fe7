"""Builds the demo: Arabic clips, a tiny model and a tiny codec, all made here; imports the packages below tools."""
