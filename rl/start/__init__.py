"""What is checked and divided before a run begins."""
