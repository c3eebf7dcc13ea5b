"""From any preference data to prompt/chosen/rejected JSONL that can be trusted; needs no torch."""
