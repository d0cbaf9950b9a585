"""The CAS over HTTPS: TLS 1.3 only, JSON, `/v1`. docs/reference/cas-api.md"""

from securetf.cas.http.server import serve

__all__ = ["serve"]
