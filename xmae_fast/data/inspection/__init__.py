"""Looks through shards: counts and problems, a printed report, and pictures of examples."""
