"""Rows out of files, folders and hub data sets, with their places."""
