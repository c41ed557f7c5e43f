"""What replicas do for each kind of job."""
