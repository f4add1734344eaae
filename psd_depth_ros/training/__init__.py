"""Training: what is learned from, what is made small, and the loop that does it."""
