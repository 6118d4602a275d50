"""The two collections of a knowledge base on Milvus: their fields and indexes, and what the first says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import parse_json
from bowerbird.knowledge.storage.milvus.client import PICTURES, Address

if TYPE_CHECKING:
    from pymilvus import MilvusClient

FORMAT = 1
PROPERTY = "bowerbird"
TEXT_BYTES = 65_535
"""The longest text that Milvus takes."""


def create_collections(place: str, client: MilvusClient, address: Address, dim: int, facts: dict[str, Any]) -> None:
    """Both with their indexes; pictures first, as the other is what `open` looks for. Raises: BowerbirdError where one
    that is not ours has the name."""
    _create_pictures(place, client, address)
    _create_items(client, address, dim, facts)


def _create_pictures(place: str, client: MilvusClient, address: Address) -> None:
    from pymilvus import DataType, MilvusClient

    pictures = f"{address.collection}{PICTURES}"
    mark = f"pictures of {address.collection}"
    if client.has_collection(pictures):
        if (client.describe_collection(pictures).get("properties") or {}).get(PROPERTY) != mark:
            raise BowerbirdError(
                f"{place}: a collection {pictures} is there, which is not ours to replace; give another name"
            )
        client.drop_collection(pictures)  # of a build that was killed this early
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=40)
    schema.add_field("item", DataType.INT64)
    schema.add_field("part", DataType.INT64)
    schema.add_field("data", DataType.VARCHAR, max_length=TEXT_BYTES)
    schema.add_field("nothing", DataType.FLOAT_VECTOR, dim=2)  # a collection must have a vector
    index = client.prepare_index_params()
    index.add_index("nothing", index_type="FLAT", metric_type="L2")
    client.create_collection(
        pictures, schema=schema, index_params=index, consistency_level="Strong", properties={PROPERTY: mark}
    )


def _create_items(client: MilvusClient, address: Address, dim: int, facts: dict[str, Any]) -> None:
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=json.dumps(facts))
    schema.add_field("id", DataType.INT64, is_primary=True)
    for name in ("caption", "name"):
        schema.add_field(name, DataType.VARCHAR, max_length=TEXT_BYTES)
    schema.add_field("metadata", DataType.JSON, nullable=True)
    schema.add_field(
        "words",
        DataType.VARCHAR,
        max_length=TEXT_BYTES,
        enable_analyzer=True,
        analyzer_params={"tokenizer": "standard"},
    )
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="bm25", function_type=FunctionType.BM25, input_field_names=["words"], output_field_names=["sparse"]
        )
    )
    index = client.prepare_index_params()
    metric = "COSINE" if facts["encoder"]["normalize"] else "IP"
    index.add_index("vector", index_type="FLAT" if address.embedded else "AUTOINDEX", metric_type=metric)
    index.add_index(
        "sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params={"bm25_k1": 1.5, "bm25_b": 0.75}
    )
    client.create_collection(
        address.collection,
        schema=schema,
        index_params=index,
        consistency_level="Strong",
        properties={PROPERTY: json.dumps(facts)},
    )


def read_manifest(place: str, client: MilvusClient, address: Address) -> dict[str, Any]:
    """What the collection says of itself. Raises: BowerbirdError when it is no knowledge base of ours."""
    facts = client.describe_collection(address.collection)
    text = (facts.get("properties") or {}).get(PROPERTY) or facts.get("description") or ""
    try:
        found = parse_json(text, place, "description")
    except BowerbirdError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BowerbirdError(f"{place}: this collection is no knowledge base of bowerbird's; give another name")
    return found
