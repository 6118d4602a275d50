"""Pinned packages of the npm registry: downloaded up to a bound, checked by SHA-512, read without unpacking.

Nothing in a tarball is looked at before its hash is right, and nothing is extracted to disk.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bowerbird.core.disk import disk_code, disk_errors
from bowerbird.core.errors import BowerbirdError
from bowerbird.core.progress import Progress

MAX_TARBALL = 64 << 20
"""Bytes a tarball may have; the largest pinned one has 14 MB."""
MAX_MEMBER = 256 << 20
"""Bytes a member that is read may have; the largest has 104 MB."""
MAX_CONTENTS = 512 << 20
"""Bytes all members that are passed over or read may have together."""
TIMEOUT = 60.0
"""Seconds the registry may say nothing."""
CHUNK = 1 << 18


@dataclass(frozen=True)
class Package:
    """A package by `name` and `version`, with `integrity`, the `sha512-<base64>` of its tarball as npm states it."""

    name: str
    version: str
    integrity: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def filename(self) -> str:
        """What `npm pack` calls the tarball: `@scope/name` at 1.2.3 is `scope-name-1.2.3.tgz`."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def path(self) -> str:
        """Where a registry keeps the tarball, relative to its address."""
        return f"{self.name}/-/{self.name.rpartition('/')[2]}-{self.version}.tgz"


def registry_address(given: str | None = None) -> str | None:
    """The registry's address without a closing slash: `given`, else $NPM_CONFIG_REGISTRY, else None: then npm is asked.

    Raises: BowerbirdError when it is no http or https address.
    """
    address = given or os.environ.get("NPM_CONFIG_REGISTRY")
    if address and not address.lower().startswith(("http://", "https://")):
        where = "`registry`" if given else "NPM_CONFIG_REGISTRY"
        raise BowerbirdError(
            f"{where} {address!r}: not the address of a registry, which begins with https:// (or http://)"
        )
    return address.rstrip("/") if address else None


def fetch(
    package: Package,
    folder: Path,
    *,
    registry: str | None = None,
    packages: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The tarball of `package`, its hash checked: from the folder `packages` if it is there, else put in `folder`.

    A `registry` that is named, or set in $NPM_CONFIG_REGISTRY, is asked directly; otherwise `npm pack` is run, which
    knows the address, the proxy and the certificates that npm is set up with. `progress` counts bytes, and the
    package is the stage.

    Raises: BowerbirdError when it cannot be had, is too large, or is not the one that was pinned; nothing is left then.
    """
    if packages is not None and (packages / package.filename).is_file():
        path = packages / package.filename
        with path.open("rb") as file:
            _copy(file, None, package, str(path), path.stat().st_size, progress)
        return path
    path = folder / package.filename
    address = registry_address(registry)
    try:
        if address is not None:
            _download(f"{address}/{package.path}", path, package, progress)
        else:
            _npm_pack(package, folder)
            with path.open("rb") as file:
                _copy(file, None, package, f"npm pack {package}", path.stat().st_size, progress)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def read_members(tarball: Path, names: Collection[str]) -> dict[str, Any]:
    """The JSON documents `names` of a package, without the leading folder; one that is not there is left out.

    The tarball is read as a stream, once, and no member is written to disk.

    Raises: BowerbirdError for a damaged tarball, a member that is too large, or one that is no JSON.
    """
    found: dict[str, Any] = {}
    total = 0
    name = tarball.name
    try:
        with tarfile.open(tarball, "r|gz") as tar:
            for member in tar:
                total += member.size
                if total > MAX_CONTENTS:
                    raise BowerbirdError(f"{name}: holds more than {MAX_CONTENTS >> 20} MB; not read further")
                name_inside = member.name.partition("/")[2]
                if name_inside not in names or name_inside in found or not member.isfile():
                    continue
                if member.size > MAX_MEMBER:
                    raise BowerbirdError(f"{name}: {name_inside} is larger than {MAX_MEMBER >> 20} MB; not read")
                file = tar.extractfile(member)
                if file is not None:
                    found[name_inside] = json.loads(file.read())
                if len(found) == len(names):
                    break
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise BowerbirdError(f"{tarball}: damaged ({error}); remove it and run the command again") from error
    except (ValueError, RecursionError) as error:
        raise BowerbirdError(f"{tarball}: {name_inside} is no JSON ({error})") from error
    return found


def _download(url: str, path: Path, package: Package, progress: Progress | None) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, disk_errors(path), path.open("wb") as out:
            stated = answer.headers.get("Content-Length", "")
            _copy(answer, out, package, url, int(stated) if stated.isdecimal() else None, progress)
    except urllib.error.HTTPError as error:
        raise BowerbirdError(f"{url}: answered {error.code} {error.reason}; {_otherwise(package)}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is one; so is a connection that breaks off
        if disk_code(error) is not None:
            raise
        reason = getattr(error, "reason", None) or error
        raise BowerbirdError(f"{url}: cannot be reached ({reason}); {_otherwise(package)}") from error


def _npm_pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise BowerbirdError(
            f"{package}: cannot be downloaded, as npm is not installed; give `registry` with the address of an "
            "npm registry, or `packages` with a folder of tarballs"
        )
    command = [npm, "pack", str(package), "--pack-destination", str(folder), "--ignore-scripts", "--loglevel", "error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BowerbirdError(f"npm pack {package}: {error}; {_otherwise(package)}") from error
    if done.returncode != 0 or not (folder / package.filename).is_file():
        lines = [line.strip().removeprefix("npm error ") for line in done.stderr.splitlines() if line.strip()]
        reason = ", ".join(lines[:2]) or "wrote nothing"
        raise BowerbirdError(f"npm pack {package}: {reason}; {_otherwise(package)}")


def _otherwise(package: Package) -> str:
    return f"try again online, or elsewhere run `npm pack {package}` and give its folder as `packages`"


def _copy(
    source: IO[bytes],
    out: IO[bytes] | None,
    package: Package,
    where: str,
    total: int | None,
    progress: Progress | None,
) -> None:
    """Read `source` to its end, into `out` if given. Raises: BowerbirdError when it is too large or another."""
    digest, done = hashlib.sha512(), 0
    while chunk := source.read(CHUNK):
        done += len(chunk)
        if done > MAX_TARBALL:
            raise BowerbirdError(f"{where}: larger than {MAX_TARBALL >> 20} MB, no {package}; nothing was kept")
        digest.update(chunk)
        if out is not None:
            out.write(chunk)
        if progress is not None:
            progress(done, total, str(package))
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if found != package.integrity:
        raise BowerbirdError(
            f"{where}: is not the {package} that was pinned (its hash is {found[:19]}…, pinned is "
            f"{package.integrity[:19]}…); nothing in it was read; remove it, or name another `registry`"
        )
