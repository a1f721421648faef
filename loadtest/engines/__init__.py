"""Every runtime, stage and batch size side by side, and beside torch."""
