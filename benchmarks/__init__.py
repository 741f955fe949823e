"""Measurements: each module runs what it measures and writes JSON or a table; nothing here is a test."""
