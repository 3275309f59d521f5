"""A folder of generated crystals that is never half written and can be filled in several goes.

Beside the crystals lie ``request.json``, what was asked for, and ``index.jsonl``, one line for each
crystal. A crystal's file is moved into its place before its line is added, so whatever has a line
is whole; what has none is made again.
"""

from matterloop.loop.structure_files.folder import (
    ALL_IN_ONE,
    Facts,
    StructureFolder,
    read_folder,
)
from matterloop.loop.structure_files.formats import FileFormat, structure_text
from matterloop.loop.structure_files.index import INDEX, Entry
from matterloop.loop.structure_files.request import REQUEST

__all__ = [
    "ALL_IN_ONE",
    "INDEX",
    "REQUEST",
    "Entry",
    "Facts",
    "FileFormat",
    "StructureFolder",
    "read_folder",
    "structure_text",
]
