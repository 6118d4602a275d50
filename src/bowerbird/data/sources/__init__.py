"""Source formats: each turns a place on disk, or on the hub, into items."""

from bowerbird.data.item import SourceItem
from bowerbird.data.sources.base import Source, SourceOptions
from bowerbird.data.sources.registry import count, read

__all__ = ["Source", "SourceItem", "SourceOptions", "count", "read"]
