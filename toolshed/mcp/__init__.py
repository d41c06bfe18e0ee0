"""The tools of a config for clients of the Model Context Protocol."""
