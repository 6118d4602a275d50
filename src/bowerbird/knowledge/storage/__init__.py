"""Where a knowledge base lies: a directory, or a Milvus server."""
