"""The plugin API: contracts, entries, hooks, and the registry that brings them together."""
