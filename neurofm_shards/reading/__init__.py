"""Reading data sets: where each value lies, and copying rows of many samples at once."""
