"""Which frames make triplets, decoded once, as batches."""
