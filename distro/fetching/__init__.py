"""The parts of a fetch (distro/fetch.py): whom to ask, what each brings, and whether it is right.

    bring.py    one file, from whoever has it to its place    ways.py     whom to ask, in order
    several.py  small files at once                           turns.py    one source for several of them
    gather.py   a large file, proven, and who was wrong       preview.py  what a fetch would do
    transfer.py, allotment.py, lane.py, errand.py             all sources fill one part file
    front.py, flusher.py, piece_proof.py                      proof and disk keep up with the network

How they work together: docs/fetch.md.
"""
