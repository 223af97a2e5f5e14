"""Which plan: what machines do in how many seconds, and what a layout of a model makes of it."""
