"""Fine-tuning: training on recordings, acceptance of the result, a child process, a report."""
