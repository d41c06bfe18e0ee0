"""Tool environments: their recipes, how they are made, and what crosses to them."""
