"""A source for tests, loaded by ``--plugin``: files that say how many samples they give."""

from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.hookspecs import hookimpl


@hookimpl
def neurofm_register_sources():
    factory = "neurofm_shards.testing.executors:NumbersSource"
    return SourceEntry(name="numbers", summary="numbers", factory=factory, suffixes=(".numbers",))
