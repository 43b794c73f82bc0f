"""Changes what lies on the disk: labels, and the files that a plan makes; by descriptor, and undone the same way."""
