"""Compressions of the standard library, and how frames are cut."""
