"""How a workload or an owner talks to a CAS whose identity it has verified."""

from securetf.cas_client.client import CasClient
from securetf.cas_client.trust import CasTrust, load_trust, save_trust

__all__ = ["CasClient", "CasTrust", "load_trust", "save_trust"]
