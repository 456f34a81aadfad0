"""What proves a file, what is remembered of that, and how a wrong one is put right (docs/verify.md)."""
