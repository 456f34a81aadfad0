"""The reference runtime: every checkpoint that the converters open, computed in float32. For truth, not for speed."""
