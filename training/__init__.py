"""Training: recipes, data, drop-path, the loop, evaluation. Its product is a run folder, ready to publish."""
