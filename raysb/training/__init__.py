"""The loop of a train worker, what it costs, and when it ends.

This package imports nothing, so that reading settings stays free of torch.
"""
