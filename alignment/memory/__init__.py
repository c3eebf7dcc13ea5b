"""Out of memory is foreseen: the longest batch is tried before the first step."""
