"""The engine process: inbox -> policy -> launch -> refinements."""
