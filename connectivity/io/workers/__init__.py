"""A gateway's worker processes: each carries the packets of its peers, the core decides for all of them."""
