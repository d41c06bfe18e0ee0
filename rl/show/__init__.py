"""Runs and episodes for people: the dashboard of a terminal, pages with pictures."""
