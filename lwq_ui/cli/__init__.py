"""The command line: the same jobs as the page's, one file per command.

Every command takes `--json FILE` (`-` for standard output, and then nothing else is printed there).
It shows progress on standard error, and exits 0, 1 (failed, one clear line) or 2 (bad arguments).
"""

from .main import main

__all__ = ["main"]
