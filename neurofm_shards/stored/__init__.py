"""Recordings that were stored as they are, read as recordings again or as windows that are cut when asked for."""
