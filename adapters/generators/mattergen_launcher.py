"""The process that runs MatterGen: ``python mattergen_launcher.py SEED ARGUMENT...``.

It runs in MatterGen's own interpreter and imports nothing of Matterloop. It seeds the global random
states, which the released command line (1.0.3) cannot do, and hands the arguments to that command
line: ``mattergen.scripts.generate`` reads them with ``fire``.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from importlib import import_module


def main(seed: int, arguments: list[str]) -> None:
    """Seed everything, then generate."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    random.seed(seed)
    import_module("numpy").random.seed(seed % 2**32)
    import_module("torch").manual_seed(seed)
    sys.argv = ["mattergen-generate", *arguments]
    import_module("mattergen.scripts.generate")._main()


def _end_with_parent() -> None:
    """Wait for the end of standard input, which comes when the parent is gone.

    Not through `sys.stdin`, whose lock would make the interpreter's own end fail.
    """
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    # Our own folder comes first in the path, and its `mattergen.py` must not hide theirs.
    del sys.path[0]
    main(int(sys.argv[1]), sys.argv[2:])
