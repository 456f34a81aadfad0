"""Addresses from strangers: who may be asked, and why the others may not."""

from __future__ import annotations

import pytest

from distro.swarm.addresses import fit_peers, fit_urls, parse_peer


def test_each_address_is_kept_once_or_dropped_with_a_reason() -> None:
    fit, dropped = fit_urls("tracker", ["https://a.example.com/x", "ftp://a.example.com/x", "https://a.example.com/x"])

    assert fit == ("https://a.example.com/x",)
    assert dropped == (
        "tracker ftp://a.example.com/x dropped: an address that does not begin with http:// or https:// or udp://",
    )


def test_a_flood_of_unfit_addresses_is_told_in_bounds() -> None:
    fit, dropped = fit_urls("web seed", [f"ftp://{i}/" for i in range(1000)])

    assert fit == ()
    assert len(dropped) == 65
    assert dropped[-1] == "936 more dropped"


def test_peers_are_public_addresses() -> None:
    fit, dropped = fit_peers(["8.8.8.8:6881", "[2001:4860:4860::8888]:80", "10.0.0.1:80", "example.com:80"])

    assert fit == (("8.8.8.8", 6881), ("2001:4860:4860::8888", 80))
    assert [line.partition(" dropped: ")[0] for line in dropped] == ["peer 10.0.0.1:80", "peer example.com:80"]


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "host:0", "host:65536", "host:x", "a@host:80", "host:80/x"]
)
def test_what_is_no_peer(text: str) -> None:
    with pytest.raises(ValueError):
        parse_peer(text)


def test_a_peer_that_the_user_names_may_be_any() -> None:
    assert parse_peer("localhost:80") == ("localhost", 80)
    assert parse_peer("[::1]:6881") == ("::1", 6881)
