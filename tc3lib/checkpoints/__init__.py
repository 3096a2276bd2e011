"""What must survive an interruption: checkpoints, and what a run is."""
