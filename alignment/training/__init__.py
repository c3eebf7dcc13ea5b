"""A trainer brought to its end: the job around it, guards, checkpoints, batches."""
