"""Shards copied into the packed form, which reads fastest; a copy that was interrupted goes on where it stopped."""
