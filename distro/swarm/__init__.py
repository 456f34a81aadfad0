"""BitTorrent, through libtorrent.

    make.py       files become a torrent                     torrent.py       a torrent, read and judged
    magnet.py     a link that names a torrent                torrent_file.py  the files in it
    variant.py    a torrent as a model that can be fetched   addresses.py     trackers, web seeds, peers
    session.py    an open libtorrent session                 binding.py       libtorrent itself
    seeder.py     files are served                           piece_layers.py  hashes of pieces, for repair
    visit.py      a torrent until it is there, who lies      filling.py       a part file, filled beside other sources

Fetching is a source: distro/sources/swarm.py.
"""
