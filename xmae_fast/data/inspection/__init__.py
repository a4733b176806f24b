"""What shards hold: counts and problems, a report in words, pictures of examples."""
