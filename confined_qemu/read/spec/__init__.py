"""A VM in YAML: text to values, and values to the command line that they stand for. Pure."""
