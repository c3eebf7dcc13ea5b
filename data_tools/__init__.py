"""Turns any preference data into prompt/chosen/rejected JSONL and checks it; needs no torch."""
