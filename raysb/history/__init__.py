"""What is known of each sample: its last loss and running statistics, by id.

This package imports nothing, so that reading settings stays free of numpy, torch and ray: take
`LossTable` from `raysb.history.table`, `LossRing` from `raysb.history.ring`, and the actors around
the table, `LossHistory`, from `raysb.history.shards`.
"""
