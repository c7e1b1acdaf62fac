"""Looking after data sets: validate, repair, drop, merge."""
