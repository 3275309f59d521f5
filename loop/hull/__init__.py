"""Reference hulls: the competing phases of a potential and the distance of a crystal from them."""

from matterloop.loop.hull.entry import HullDistance, Kind, ReferenceEntry
from matterloop.loop.hull.reference import ReferenceHull

__all__ = ["HullDistance", "Kind", "ReferenceEntry", "ReferenceHull"]
