"""Where numbers go: metrics.jsonl first, then W&B and the other trackers."""
