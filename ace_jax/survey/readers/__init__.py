"""Readers: a survey's files to one raw table of codes."""
