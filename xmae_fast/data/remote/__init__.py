"""Shards at remote addresses, copied into a local cache before they are read."""
