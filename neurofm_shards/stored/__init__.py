"""Recordings that were stored as they are: read as recordings again, and as windows that are cut when they are asked for."""
