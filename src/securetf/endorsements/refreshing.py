"""Fetches again what a cache holds: a TCB recovery or revocation counts before the old one has expired."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from securetf.endorsements import names
from securetf.endorsements.cache import Artefact, Cache
from securetf.endorsements.needs import DcapNeed, PckCa, Tee
from securetf.endorsements.sources import Fetched, Sources, Update
from securetf.errors import EndorsementError
from securetf.evidence.sev_snp import SnpKey, SnpProduct

_LINES = {line.lower(): line for line in SnpProduct}
_KEYS = {key.lower(): key for key in SnpKey}


def refresh(cache: Cache, sources: Sources, *, now: datetime) -> dict[str, EndorsementError | None]:
    """Fetch everything again that may change before it expires; return what became of each, by name.

    None: there is a new one. An error: the old one is kept. VCEKs are left alone: AMD never makes another for
    the same chip and firmware.
    """
    found: dict[str, EndorsementError | None] = {}
    for old in list(cache):
        fetch = _fetch_of(old, sources) if isinstance(old, Artefact) else None
        if fetch is None or not isinstance(old, Artefact):
            continue
        try:
            fetched = fetch()
            cache.put(old.name, fetched.content, source=fetched.source, now=now)
            found[old.name] = None
        except EndorsementError as error:
            found[old.name] = error
    return found


def _fetch_of(old: Artefact, sources: Sources) -> Callable[[], Fetched] | None:
    kind, *parts = old.name.split("-")
    match kind, parts:
        case "dcap", [tee, fmspc, ca, update]:
            need = DcapNeed(tee=Tee(tee), fmspc=fmspc.upper(), ca=PckCa(ca))
            return partial(replace(sources, update=Update(update)).dcap, need)
        case "chain", [line, key] if line in _LINES and key in _KEYS:
            return partial(sources.amd_chain, _LINES[line], _KEYS[key])
        case "crl", [line, key] if line in _LINES and key in _KEYS:
            return partial(sources.amd_crl, _LINES[line], _KEYS[key])
        case "crl", [_] if names.crl(old.source) == old.name:
            return partial(sources.tpm_crl, old.source)
        case "certificate", [_] if names.certificate(old.source) == old.name:
            return partial(sources.tpm_certificate, old.source)
    return None
