"""Tools in Ray actors: replicas, the control actor that keeps them, and routing in the caller."""
