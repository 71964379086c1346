"""What becomes of a ``turnserver.conf`` of coturn: a ``relay.yaml``, and a list of what it has no equal for."""
