"""Galaxies are simulated, networks are built, trained and loaded: torch and numpy only."""
