"""What users ask for and get: specs, surveys, plans, runs, maps, report, command line."""
