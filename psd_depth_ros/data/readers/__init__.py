"""One file for each layout of recordings."""
