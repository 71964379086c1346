"""The host's DNS: which servers it uses, and how names come to be asked of the client instead."""
