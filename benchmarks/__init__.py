"""Speed claims, each measured with its peer in one process."""
