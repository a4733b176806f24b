"""Shards at remote addresses, which are copied into a local cache before they are read."""
