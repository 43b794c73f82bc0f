"""Changes what lies on disk, and puts it back: labels, the files that a plan makes, the journal."""
