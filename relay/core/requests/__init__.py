"""Requests: a module for each method of TURN, and ``dispatch`` that authenticates, has it done and answers."""
