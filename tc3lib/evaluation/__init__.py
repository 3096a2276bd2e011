"""Notebooks 02 and 04: ask the questions, score and compare the answers, report."""
