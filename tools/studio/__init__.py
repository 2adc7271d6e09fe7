"""A page to try a voice. The page (`page.py`) and the server know Gradio; what speaks and what is checked do not."""
