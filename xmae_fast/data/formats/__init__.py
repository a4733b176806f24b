"""Shards as files: the published and the packed layout, and other files that a shard takes data from."""
