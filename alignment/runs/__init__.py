"""Runs on disk: the record of a run, its folder, its lock, its parents and the names of files."""
