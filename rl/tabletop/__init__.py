"""Questions about the embedded tabletop world: what is asked, how worded, who plays it right."""
