"""Which rollouts begin, wait, are trained or dropped, and in which order."""
