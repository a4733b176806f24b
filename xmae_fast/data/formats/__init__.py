"""Shards as files: their layouts, the published and the packed form, and files that a shard takes data from."""
