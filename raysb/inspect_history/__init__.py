"""What a run learned about every sample: a table of all, the most telling ones, their pictures."""
