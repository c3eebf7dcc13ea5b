"""The rows of a stage: read, rendered, masked, counted and kept on disk."""
