"""The sockets of the client's DNS: queries to servers, and what programs ask over TCP."""
