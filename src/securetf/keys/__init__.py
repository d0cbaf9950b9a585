"""Keys of owners and of attested workloads, and the signatures they put under requests (RFC 9421)."""

from securetf.keys.owner import OwnerKey, create_owner_key, load_owner_key
from securetf.keys.workload import WorkloadKey, thumbprint

__all__ = ["OwnerKey", "WorkloadKey", "create_owner_key", "load_owner_key", "thumbprint"]
