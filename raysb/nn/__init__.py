"""Models by name, in CIFAR style, with the norm layer chosen.

`raysb.nn.registry` builds them; this package imports nothing, so that reading settings stays free
of torch.
"""
