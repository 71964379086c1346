"""The gateway: lets authorized clients reach the resources of its site."""
