"""Writing data sets: samples become records, records become shards, shards become a data set."""
