"""Tests: mirrors the packages."""
