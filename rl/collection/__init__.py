"""Traces of a teacher: played under a budget, journalled as they end, filtered, and written."""
