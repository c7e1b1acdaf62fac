"""The order of an epoch: a keyed bijection of rows, shuffle windows, schedules of mixed data sets."""
