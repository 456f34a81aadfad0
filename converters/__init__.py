"""Checkpoints in, checkpoints out: any model at rest, read by rows, laid out anew in one streamed pass.

A library about checkpoints. It knows no network, no store and no command line.
"""
