"""Notebook 01: read a catalogue, clean it, draw the rows of a run; look a product up."""
