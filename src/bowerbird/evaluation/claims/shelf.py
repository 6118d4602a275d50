"""A real knowledge base of a lab's drawings, on disk for as long as a claim needs it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bowerbird.core import tensors
from bowerbird.data.pictures import Pictures
from bowerbird.knowledge.base import KnowledgeBase


@contextmanager
def knowledge_base(pictures: Pictures) -> Iterator[KnowledgeBase]:
    """A knowledge base of `pictures`, with the bundled encoder; gone with the block."""
    with tempfile.TemporaryDirectory() as folder:
        yield KnowledgeBase.build(Path(folder) / "kb", str(source(pictures, Path(folder) / "pictures.parquet")))[0]


def source(pictures: Pictures, path: Path, columns: Sequence[str] = ("hexcode", "style", "split")) -> Path:
    """The pictures with captions and metadata `columns` as a parquet file that a knowledge base can read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for image, caption, metadata in zip(
        tensors.to_pil(pictures.pixels), pictures.captions, pictures.metadata, strict=True
    ):
        data = io.BytesIO()
        image.save(data, "PNG")
        rows.append(
            {
                "name": caption,
                **{key: str(metadata.get(key, "")) for key in columns},
                "image": {"bytes": data.getvalue(), "path": None},
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
