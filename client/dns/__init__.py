"""The client's DNS without IO: records, sentinels, the stub resolver's decisions, queries that are under way."""
