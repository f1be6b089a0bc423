"""Structured pruning: whole channels leave a network, and a smaller dense one remains.

`graph` finds which channels hang together, `criteria` says what each is worth, `amounts` and
`budget` choose, `plan` is the choice as plain tensors, `surgery` makes the small net of it,
`repair` lets the next layer make up for what is gone. Pure torch. This package imports nothing.
"""
