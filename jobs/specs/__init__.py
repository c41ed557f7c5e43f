"""Job files: what may be in them, with every default, and how mistakes are told."""
