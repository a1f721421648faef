"""The engine process: inbox -> policy -> launch -> refinements."""

from server import compiled

compiled.prefer(__path__)
