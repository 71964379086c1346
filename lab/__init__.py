"""The lab: the one topology in network namespaces, and the demo that runs in it."""
