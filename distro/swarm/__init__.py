"""BitTorrent through libtorrent: torrents that are made or read, sessions, seeding."""
