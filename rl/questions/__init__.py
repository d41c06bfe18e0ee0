"""Where questions come from, and their pictures."""
