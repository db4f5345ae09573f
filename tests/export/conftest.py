"""The scripts of export/ are modules for these tests."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "export"))
