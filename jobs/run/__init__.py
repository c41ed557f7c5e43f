"""Run folders: created, worked on to the end, resumed, looked at."""
