"""The old place of these names, until all who import them have moved."""

from distro.swarm.addresses import parse_peer
from distro.swarm.binding import require_libtorrent
from distro.swarm.magnet import Magnet, parse_magnet
from distro.swarm.make import make, model_files, piece_length_for
from distro.swarm.torrent import Torrent, from_info, read
from distro.swarm.torrent_file import TorrentFile
from distro.swarm.variant import variant_from_torrent

__all__ = [
    "Magnet", "Torrent", "TorrentFile", "from_info", "make", "model_files", "parse_magnet", "parse_peer",
    "piece_length_for", "read", "require_libtorrent", "variant_from_torrent",
]  # fmt: skip
