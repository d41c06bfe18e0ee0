"""Questions about the embedded tabletop world: what is asked, in which words, and who plays it right."""
