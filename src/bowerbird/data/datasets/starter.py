"""The starter collection: 301 drawings of 120 things that no bundled model was trained on, in four styles.

They are of Fluent Emoji (MIT), Noto Emoji, its first version, and IconPark (Apache-2.0), 128 px, with names; each row
says whose it is. `docs/make_starter.py` makes the archive.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.files import atomic_directory

ARCHIVE = Path(__file__).with_name("starter.zip")
"""Pictures, `metadata.csv` and both licenses."""
CREDIT = ("set", "author", "license", "source")
"""The columns that say whose a picture is."""


def unpack(out: str | Path) -> Path:
    """The collection as a folder of pictures at `out`, whole or not at all.

    Raises: BowerbirdError where something is there already.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise BowerbirdError(f"{out}: is there already; give a new folder, or remove it")
    with atomic_directory(out) as folder, zipfile.ZipFile(ARCHIVE) as archive:
        for entry in archive.infolist():
            path = folder / entry.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
    return out
