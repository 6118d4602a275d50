"""What the names of a collection's files say: which are pictures, which belong to them, which are nobody's, and the
class and split of each picture.

Names are paths below the source with forward slashes, whether they lie in a folder or in an archive.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from unicodedata import normalize

from bowerbird.core.images import SUFFIXES
from bowerbird.data.columns import column_key
from bowerbird.data.text import spelled

MOST_BYTES = 64 * 1024**2
"""A larger member of an archive, or answer of an address, is reported and not read: no picture of the size we take
needs it."""
_UNREAD = (
    "heic heif hif jxl avif webp svg svgz psd psb xcf kra ai eps ps pdf raw dng cr2 cr3 nef nrw arw srf orf rw2 raf pef"
    " srw x3f exr hdr jxr wdp jpm djvu cdr dcm"
)
NOT_READ = frozenset(f".{suffix}" for suffix in _UNREAD.split())
"""Suffixes of pictures; those that are in `SUFFIXES` as well are read."""
SYSTEM = frozenset(
    {"bowerbird-check", "@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)
"""Folders that systems, and check-copies, make for themselves, in small letters; so is all that begins with a dot."""
ABOUT = re.compile(
    r"(readme|licen[cs]e|notice|citation)(\..*)?"
    r"|.*_stats\.json|dataset_infos?\.json|embed\.json|thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
"""Files that say something of a collection, or that systems make, and are never of a picture."""
SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
CONTAINERS = frozenset(
    {"images", "image", "imgs", "img", "pictures", "pics", "photos", "jpegimages", "jpg", "jpeg", "png", "webp", "data"}
    | {"bilder", "fotos"}
)
"""Folders named for what lies in them, which is no class."""
FILE_COLUMNS = (
    "file_name",
    "file",
    "image",
    "image_path",
    "image_file",
    "image_name",
    "img",
    "img_path",
    "img_name",
    "path",
    "file_path",
    "picture",
    "photo",
    "image_id",
)
"""Columns that name a row's picture, written in any way (`File Name`); the first that is there wins."""
GENERATED, SHEET = "generation.jsonl", "sheet.png"
"""What `generate` writes beside its pictures: their records, and a picture of all, which is none of them."""
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv")
PARQUET = (".parquet", ".pq")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
SIDECARS = (".txt", ".caption", ".json", ".cls")
TAKEOUT = ".supplemental-metadata.json"
"""What Google's export of photographs puts after a picture's name."""
THUMBNAILS = frozenset({"thumbnails", "thumbnail", "thumbs", "thumb"})
"""Folders of small copies, as galleries and InvokeAI make them beside the pictures."""
_YEAR = re.compile(r"[-_]?(19|20)\d\d")
_MASK = re.compile(r"(?P<of>.+?)[._-](mask|masks|masklabel|seg|segmentation|depth|alpha|matte)", re.IGNORECASE)
_NUMBERED = re.compile(r"\d{1,3}(_|\.(?=[^\W\d]))(?P<name>.+)")
"""A folder of kohya's trainer (`10_sks dog`), or of a class with a number, as of CUB (`001.Black_footed_Albatross`)."""
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"BM")


def split_name(folder: str) -> str | None:
    """The split that a folder of this name is: `train`, `Val`, COCO's `train2017`."""
    return SPLITS.get(_YEAR.sub("", folder.lower(), count=1))


def suffix_of(name: str) -> str:
    """The suffix in small letters, empty where there is none."""
    return posixpath.splitext(name)[1].lower()


def is_system(name: str) -> bool:
    """Whether a file or folder on the way to it is hidden, or a system's own."""
    return any(part.startswith(".") or part.lower() in SYSTEM for part in name.split("/") if part != "..")


def is_about(name: str) -> bool:
    """Whether a file is of the collection as a whole, or a system's own."""
    return ABOUT.fullmatch(posixpath.basename(name)) is not None


def is_picture(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def looks_like_picture(name: str) -> bool:
    """Whether the suffix is that of a picture that is not read."""
    return suffix_of(name) in NOT_READ - SUFFIXES


def starts_like_picture(head: bytes) -> bool:
    """Whether the first bytes are those of a picture, for files without a suffix."""
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def file_column(names: Iterable[str]) -> str | None:
    """The column that names a row's picture: one of `FILE_COLUMNS`, or HF's `…_file_name` and `…_file_names`."""
    keys: dict[str, str] = {}
    for name in names:
        keys.setdefault(column_key(name), name)
    found = next((keys[key] for key in map(column_key, FILE_COLUMNS) if key in keys), None)
    return found or next((name for key, name in keys.items() if key.endswith(("filename", "filenames"))), None)


def without_number(name: str) -> str:
    """A picture's name without the number of its caption, as Flickr's lists have it: `1.jpg#2`."""
    return re.sub(r"#\d+$", "", name)


def stem_of_archive(name: str) -> str:
    """A shard's name without its suffixes: what its table shares with it."""
    low = name.lower()
    suffix = next((one for one in sorted(ARCHIVES, key=len, reverse=True) if low.endswith(one)), None)
    return name[: -len(suffix)] if suffix else name.rpartition(".")[0]


def fold(name: str) -> str:
    """A name as lists may write it: slashes of either kind, `./` in front, and composed or decomposed letters."""
    made = normalize("NFC", spelled(name).strip().replace("\\", "/"))
    while made.startswith("./"):
        made = made[2:].lstrip("/")
    return made


def drop_further(names: list[str], *, samples: bool) -> tuple[list[str], list[str]]:
    """Pictures that are items, and those that belong to another one: `a.mask.png` beside `a.png`, `thumbnails/a.webp`
    below it.

    With `samples`, as in a webdataset, what stands under one name up to the first dot is one sample, and a picture with
    nothing but a suffix after it comes before all others.
    """
    masks = {name: found["of"] for name in names if (found := _MASK.fullmatch(_stem(name)))}
    dotted = {name for name in names if samples and _stem(name) != sample_key(name)}
    small = {n for n in names if posixpath.basename(posixpath.dirname(n)).lower() in THUMBNAILS}
    if not (masks or dotted or small):
        return names, []
    stems = {_stem(name) for name in names}
    keys = {stem for stem in stems if "." not in posixpath.basename(stem)}
    copies = {name for name in small if _above(_stem(name)) in stems}
    further = [n for n in names if masks.get(n) in stems or (n in dotted and sample_key(n) in keys) or n in copies]
    left = set(further)
    return [name for name in names if name not in left], further


def _above(name: str) -> str:
    """The same name one folder up."""
    return posixpath.join(posixpath.dirname(posixpath.dirname(name)), posixpath.basename(name))


def is_mask(name: str) -> bool:
    """Whether the name is that of a mask or the like, which beside its picture is no item."""
    return _MASK.fullmatch(_stem(name)) is not None


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def sample_key(name: str) -> str:
    """The name up to the first dot after its folder: a webdataset's key."""
    folder, _, own = name.rpartition("/")
    own = own.partition(".")[0]
    return f"{folder}/{own}" if folder else own


class NameIndex:
    """Finds files by names that others wrote: separators, `./`, composed letters, and case where only one file is
    meant. Lean, as there may be millions: most names are kept once."""

    def __init__(self, names: Sequence[str]) -> None:
        self._all = names
        self._exact = set(names)
        self._spelled = {key: name for name in names if (key := fold(name)) != name}
        self._cased: dict[str, str | None] = {}
        for name in names:
            low = fold(name).casefold()
            if low != name:
                self._cased[low] = None if low in self._cased else name
        self._short: dict[str, list[str]] = {}

    def find(self, written: str) -> str | None:
        """The one file of this name."""
        key = fold(written)
        if key in self._exact:
            return key
        if key in self._spelled:
            return self._spelled[key]
        low = key.casefold()
        if low in self._cased:
            return None if low in self._exact else self._cased[low]
        return low if low in self._exact else None

    def below(self, folder: str, written: str) -> str | None:
        """The one file in or below `folder` that is called `written`, which names no folder itself."""
        if not self._short:
            for name in self._all:
                self._short.setdefault(fold(posixpath.basename(name)).casefold(), []).append(name)
        inside = f"{folder}/" if folder else ""
        found = [name for name in self._short.get(fold(written).casefold(), ()) if name.startswith(inside)]
        return found[0] if len(found) == 1 else None


class Layout:
    """Classes and splits of pictures by the folders they lie in."""

    def __init__(self, pictures: Iterable[str]) -> None:
        self._children: dict[str, set[str]] = {}
        self._known: dict[str, tuple[str | None, str | None]] = {}
        for folder in {posixpath.dirname(name) for name in pictures}:
            parts = tuple(part for part in folder.split("/") if part)
            for i, part in enumerate(parts):
                self._children.setdefault("/".join(parts[:i]), set()).add(part)

    def split_of(self, name: str) -> str | None:
        """train, validation or test, where a folder on the way says so and none beside it says anything else."""
        return self._of_folder(posixpath.dirname(name))[0]

    def class_of(self, name: str) -> str | None:
        """The folder the picture lies in, without the number in front of it (`10_name`, `001.name`); None where that
        says only what its files are."""
        return self._of_folder(posixpath.dirname(name))[1]

    def _of_folder(self, folder: str) -> tuple[str | None, str | None]:
        """Split and class of the pictures in a folder."""
        if folder not in self._known:
            parts = tuple(part for part in folder.split("/") if part and part != "..")
            split = next((split_name(p) for i, p in enumerate(parts) if self._is_split(parts[:i], p)), None)
            classes = [
                p for i, p in enumerate(parts) if p.lower() not in CONTAINERS and not self._is_split(parts[:i], p)
            ]
            numbered = _NUMBERED.fullmatch(classes[-1]) if classes else None
            self._known[folder] = split, numbered["name"] if numbered else classes[-1] if classes else None
        return self._known[folder]

    def _is_split(self, above: tuple[str, ...], part: str) -> bool:
        """Whether a folder is a split: by its name, and as its neighbors are splits too (a class may be called train,
        among cars and ships)."""
        if split_name(part) is None:
            return False
        beside = self._children.get("/".join(above), set())
        return all(split_name(other) is not None or other.lower() in CONTAINERS for other in beside)


def split_of_file(name: str) -> str | None:
    """The split that a table of a hub data set is of: `train-00000-of-00001.parquet`."""
    found = re.match(r"([a-z]+)(?:[-._]|$)", posixpath.basename(name).lower())
    return SPLITS.get(found[1]) if found else None
