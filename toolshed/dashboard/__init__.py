"""The page that shows running tools."""
