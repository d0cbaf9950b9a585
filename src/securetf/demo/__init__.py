"""The demonstration: an owner, an untrusted host and a trainer on one machine, in simulation.

It types the commands that a user would type and checks what comes back; nothing here decides who gets a key.
"""

from securetf.demo.story import Options, tell

__all__ = ["Options", "tell"]
