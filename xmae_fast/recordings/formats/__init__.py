"""Readers of recordings, one file for each format."""
