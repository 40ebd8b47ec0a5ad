"""Predictions → the files that others ask for."""
