"""What is learned: one paper, one file. `base` has the machinery, `registry` finds terms."""
