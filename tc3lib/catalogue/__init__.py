"""Notebook 01: read a catalogue, clean it, draw the rows of a run; look a product up."""

from tc3lib.catalogue.prepare import PrepareReport, before_and_after, prepare
from tc3lib.catalogue.sampling import SelectReport, select

__all__ = ["PrepareReport", "SelectReport", "before_and_after", "prepare", "select"]
