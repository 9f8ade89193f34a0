"""The figures of reliability, one module for each kind of mishap.

They share digests and malformed input with the tests, whose folder is put on the path.
"""

import sys
from pathlib import Path

PATHS = [str(Path(__file__).parents[2] / folder) for folder in ("bench", "tests")]
sys.path[:0] = [path for path in PATHS if path not in sys.path]
