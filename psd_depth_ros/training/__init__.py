"""Training: recipes, tasks and the loop with its state, logs and run folder."""
