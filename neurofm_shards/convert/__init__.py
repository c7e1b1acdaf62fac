"""From inputs to a data set: plan, tasks, executors, commit, append."""
