"""A loss for every row of every pool: forward passes without gradients, and who may make them.

This package imports nothing, so that reading settings stays free of torch.
"""
