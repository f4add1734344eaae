"""Fine-tuning: a child process that trains, judges the result and reports."""
