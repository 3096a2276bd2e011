"""Notebook 03: train the adapter."""
