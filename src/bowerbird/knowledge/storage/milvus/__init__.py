"""The same knowledge base on a Milvus server, or in a Milvus Lite file: `milvus://HOST:PORT/COLLECTION`,
`milvus://FILE.db`."""
