"""Programs that stay while a VM runs: executed by path, they import next to nothing."""
