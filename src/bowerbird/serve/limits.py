"""What a request may ask for at most, and what a child process may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """`own_pixels`: how many times the pixels of its own size a model may be asked for (4: twice the edge). `work`:
    pictures times steps times pixels. `json_bytes`, `upload_bytes`: of a body; `picture_bytes`: of one picture;
    `files`: in one upload. `body_seconds`, `header_seconds`: how long they may take to come. `decode_seconds`,
    `decode_bytes`, `ingest_bytes` and `ingest_seconds`: of a child process."""

    prompt: int = 4000
    images: int = 16
    least_edge: int = 16
    edge: int = 2048
    own_pixels: int = 4
    steps: int = 200
    k: int = 64
    work: int = 16 * 200 * 512 * 512
    json_bytes: int = 2**20
    picture_bytes: int = 32 * 2**20
    upload_bytes: int = 512 * 2**20
    files: int = 1000
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    decode_seconds: float = 10.0
    decode_bytes: int = 2**30
    ingest_bytes: int = 6 * 2**30
    ingest_seconds: float = 3600.0
    connections: int = 512

    def public(self) -> dict[str, int]:
        """Those that a client can heed."""
        names = ("prompt", "images", "edge", "own_pixels", "steps", "k", "upload_bytes", "files", "picture_bytes")
        return {name: getattr(self, name) for name in names}


LIMITS = Limits()


def limit_memory(most: int) -> None:
    """Let this process have no more than so many bytes of its own, where the system can see to that."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # no such limits on this system
        return
