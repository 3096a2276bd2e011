"""Notebook 05: what was trained, in the forms that other programs take; its weights are proved by such a program."""

from tc3lib.export.hub import upload
from tc3lib.export.run import export
from tc3lib.export.verify import rows

__all__ = ["export", "rows", "upload"]
