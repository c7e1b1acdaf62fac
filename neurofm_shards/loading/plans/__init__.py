"""Plans: which rows form which batch, on which rank."""
