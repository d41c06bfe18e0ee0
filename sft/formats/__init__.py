"""The forms that training data comes in, one file each; what they are is in ``table.py``."""
