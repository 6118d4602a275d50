"""What a search found, in a better order: one file a reranker."""
