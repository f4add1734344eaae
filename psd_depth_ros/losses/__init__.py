"""What the networks are trained to make small; each term a named function."""
