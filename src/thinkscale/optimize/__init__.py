"""Measuring strategies over tasks, and showing what was measured."""
