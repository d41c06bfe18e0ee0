"""From traces to a teaching set: each step of ``python -m sft.curate`` in a file of its own."""
