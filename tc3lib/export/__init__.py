"""Notebook 05: what was trained, in the forms that other programs take, each proved by the program that will use it."""

from tc3lib.export.hub import upload
from tc3lib.export.run import export
from tc3lib.export.verify import rows

__all__ = ["export", "rows", "upload"]
