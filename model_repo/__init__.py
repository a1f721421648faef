"""What a served model is: its architecture, its manifest, its files on disk."""
