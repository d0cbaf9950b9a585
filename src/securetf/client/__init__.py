"""Clients of services: nothing is sent before the service has proved what the client's policy asks for."""

from securetf.client.checks import verify
from securetf.client.connection import Connection, connect
from securetf.client.observation import Observation
from securetf.client.policy import ClientPolicy, load_policy, parse_policy
from securetf.client.verdict import Attestation, Check, Status, Verdict

__all__ = [
    "Attestation",
    "Check",
    "ClientPolicy",
    "Connection",
    "Observation",
    "Status",
    "Verdict",
    "connect",
    "load_policy",
    "parse_policy",
    "verify",
]
