"""Does selecting pay on this model, these rows and this machine? Measured, then computed."""
