"""Linear probes: how well a linear model predicts labels from embeddings of held-out subjects."""
