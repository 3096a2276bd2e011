"""Notebook 05: write the fine-tuned model in the formats of other programs, and check that those answer as it does."""

from tc3lib.export.hub import upload
from tc3lib.export.run import export
from tc3lib.export.verify import rows

__all__ = ["export", "rows", "upload"]
