"""A source for tests, loaded by ``--plugin``: files that say how many samples they give, slowly."""

import time

from neurofm_shards.plugins.entries import SourceEntry
from neurofm_shards.plugins.hookspecs import hookimpl
from neurofm_shards.testing.executors import NumberSamples, NumbersSource


class SlowSource(NumbersSource):
    def open(self, paths):
        return SlowSamples(paths[0])


class SlowSamples(NumberSamples):
    def read(self, start, stop):
        time.sleep(0.5)
        return super().read(start, stop)


@hookimpl
def neurofm_register_sources():
    return SourceEntry(name="slow", summary="slow numbers", factory=SlowSource, suffixes=(".slow",))
