"""The headless client: sends what belongs to a resource through a gateway of the resource's site."""
