"""The parts of the benchmarks; each file measures one thing."""
