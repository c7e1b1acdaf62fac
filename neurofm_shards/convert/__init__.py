"""From inputs to a data set: plan, tasks, executors, journal, commit, append, drop, merge."""
