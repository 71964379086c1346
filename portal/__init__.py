"""The control server: sites, resources, policies and tokens from one YAML file, live over three WebSocket paths."""
