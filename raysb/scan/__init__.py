"""`raysb score`: the scoring stage alone, over every row once, into a parquet file."""
