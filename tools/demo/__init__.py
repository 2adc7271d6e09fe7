"""The demo: Arabic clips, a tiny model and a tiny codec, all made here; imports what stands below tools."""
