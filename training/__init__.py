"""Training: recipes, data, drop-path, the loop, evaluation. Its product is a run folder that `model_repo` can publish."""
