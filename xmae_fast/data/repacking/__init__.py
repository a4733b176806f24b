"""Copies shards into one packed file, which is read fastest; an interrupted copy goes on where it stopped."""
