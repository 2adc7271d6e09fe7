"""Makes training data from what people have; imports training, and nothing else of voice_cloning."""
