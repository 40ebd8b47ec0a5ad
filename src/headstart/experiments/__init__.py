"""Heads refitted to find something out."""
