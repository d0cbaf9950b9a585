"""All genuine Evidence of the shared vectors with what checks it: for flips of bits and for truncations.

A case's `raw` is what its TEE's signatures cover, directly or by a hash, with the signatures themselves; what
nobody signs (lengths, texts of events, JSON around it) is left out or put around it anew.
"""

import base64
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from securetf.errors import EvidenceError, SignatureError
from securetf.evidence import sgx, tdx, tpm2_public, tpm2_quote
from securetf.verifier import tpm2_quote as steps
from support import dcap_oracle
from support.shared_vectors import VECTORS
from vectors import test_azure_vtpm, test_gcp_vtpm, test_nitro, test_sev_snp, test_sgx, test_tdx, test_tpm2

INTEL = bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e")


@dataclass(frozen=True)
class Case:
    """check: returns for genuine bytes, raises EvidenceError otherwise. accepts: whether `raw` itself passes;
    old machines, debug TEEs and negatives do not. offsets: bytes of `raw` to flip bits in. chain: bytes of
    certificates; one bit in each is flipped. oracle: the other check of signatures, asked for one bit of each
    byte, where ours decided by a signature.
    """

    name: str
    raw: bytes
    check: Callable[[bytes], object]
    accepts: bool
    offsets: Sequence[int]
    chain: Sequence[int] = ()
    oracle: Callable[[bytes], bool] | None = None


@dataclass
class Count:
    """What came out. asked: of the oracle. odd: neither refused by one of our errors nor accepted."""

    flips: int = 0
    truncations: int = 0
    asked: int = 0
    accepted: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)


def cases() -> Iterator[Case]:
    """Yield each genuine file of each platform."""
    yield from _dcap(test_tdx.entries(), test_tdx.verify, tdx.parse)
    yield from _dcap([one.values[0] for one in test_sgx.entries()], test_sgx.verify, sgx.parse)
    for one in test_sev_snp.entries("snp/", "report"):
        (entry,) = one.values
        yield _snp(entry)
    for name in test_nitro.DOCUMENTS:
        raw = (VECTORS / "nitro" / name).read_bytes()
        good = test_nitro.ENTRIES[name]["verdicts"][0]["result"] == "VALID"
        yield Case(
            f"nitro/{name}", raw, lambda raw, name=name: test_nitro.verify(raw, name), good, range(len(raw))
        )
    yield _keylime()
    yield _trustee()
    yield _gce()
    for name in test_azure_vtpm.AZURE:
        yield from _azure(name)


def changed(case: Case, draw: random.Random | None, few: int) -> Iterator[tuple[int, int]]:
    """Yield offset and bit of each flip, or of `few` that are drawn."""
    if draw is not None:
        for _ in range(few):
            yield draw.choice([*case.offsets, *case.chain]), draw.randrange(8)
        return
    for offset in case.offsets:
        yield from ((offset, bit) for bit in range(8))
    for offset in case.chain:
        yield offset, offset % 8


def run(case: Case, draw: random.Random | None = None, few: int = 0) -> Count:
    """Flip and cut: everything, or `few` flips and cuts that are drawn."""
    count = Count()
    if case.accepts:
        case.check(case.raw)
    for offset, bit in changed(case, draw, few):
        flipped = bytearray(case.raw)
        flipped[offset] ^= 1 << bit
        count.flips += 1
        asked = draw is not None or bit == offset % 8  # 12 ms each
        _one(
            case, bytes(flipped), f"{case.name}: byte {offset}, bit {bit}", count, asked, offset in case.chain
        )
    sizes = range(len(case.raw)) if draw is None else [draw.randrange(len(case.raw)) for _ in range(few)]
    for size in sizes:
        count.truncations += 1
        _one(case, case.raw[:size], f"{case.name}: cut to {size}", count, True, False)
    return count


def _one(case: Case, raw: bytes, what: str, count: Count, ask: bool, in_chain: bool) -> None:
    """The oracle must not call good what ours refuses for a signature, or bad what ours accepts.

    in_chain: names, dates and outer algorithms of certificates are not the oracle's business.
    """
    refused: Exception | None = None
    try:
        case.check(raw)
    except EvidenceError as error:
        refused = error
    except Exception as error:  # noqa: BLE001  # that is the question
        count.odd.append(f"{what}: {error!r}")
        return
    else:
        count.accepted.append(what)
    signature = isinstance(refused, SignatureError) and "signature" in str(refused) and not in_chain
    if case.oracle is None or not ask or not (signature or refused is None):
        return
    count.asked += 1
    if case.oracle(raw) != (refused is None):
        count.disagreements.append(f"{what}: {refused or 'accepted'}")


def _dcap(found: Sequence[dict[str, Any]], verify: Any, parse: Any) -> Iterator[Case]:
    for entry in found:
        verdict = next((one for one in entry["verdicts"] if one["result"] != "REJECT"), entry["verdicts"][0])
        accepts = verdict["result"] != "REJECT"
        raw = (VECTORS / entry["file"]).read_bytes()[: entry["parse"]["declared_end"]]
        try:
            quote = parse(raw)
        except EvidenceError:
            yield Case(entry["file"], raw, parse, False, range(len(raw)))
            continue
        start, qe = raw.index(quote.signature), raw.index(quote.qe_report)
        unsigned = {*range(start - 4, start), *range(start + 128, qe), *range(qe + 448, qe + 450)}
        chain = raw.index(b"-----BEGIN")
        yield Case(
            entry["file"],
            raw,
            lambda raw, entry=entry, verdict=verdict: verify(raw, entry, verdict),
            accepts,
            sorted({*range(chain - 6)} - unsigned),
            chain=range(chain, len(raw)) if accepts else (),
            oracle=lambda raw: dcap_oracle.holds(raw, INTEL),
        )


def _snp(entry: dict[str, Any]) -> Case:
    certificate = test_sev_snp.certificate_of(entry)
    return Case(
        entry["file"],
        (VECTORS / entry["file"]).read_bytes(),
        lambda raw: test_sev_snp.verify(entry, certificate, raw=raw),
        entry["verdicts"][0]["result"] == "VALID",
        range(1184),
    )


def _signed(name: str, quote: bytes, signature: bytes, key: Any, pcrs: dict[int, bytes]) -> Case:
    """A TPM quote: the attested structure, the values of the PCRs, the signature."""
    values = b"".join(pcrs[index] for index in sorted(pcrs))
    ends = (len(quote), len(quote) + len(values))

    def check(raw: bytes) -> None:
        one = tpm2_quote.parse_quote(raw[: ends[0]])
        held = tpm2_quote.parse_signature(raw[ends[1] :])
        steps.check_signature(one, held, key)
        given = {
            index: raw[ends[0] + at * 32 : min(ends[1], ends[0] + at * 32 + 32)]
            for at, index in enumerate(sorted(pcrs))
        }
        steps.check_pcrs(one, held, given)

    raw = quote + values + signature
    return Case(name, raw, check, True, range(len(raw)))


def _keylime() -> Case:
    quote, signature, ak = test_tpm2.keylime()
    raw = (test_tpm2.FOLDER / "keylime_quotepcr.out").read_bytes()
    digests = [raw[142 + 66 * index : 142 + 66 * index + 32] for index in range(len(quote.selection))]
    return _signed(
        "tpm/keylime_quote",
        tpm2_quote.encode_quote(quote),
        tpm2_quote.encode_signature(signature),
        steps.public_key(ak),
        dict(zip(quote.selection, digests, strict=True)),
    )


def _trustee() -> Case:
    found = json.loads((test_tpm2.FOLDER / "trustee_tpm_evidence.json").read_text())
    quote = found["tpm_quote"]
    return _signed(
        "tpm/trustee_tpm_evidence.json",
        base64.b64decode(quote["message"]),
        base64.b64decode(quote["signature"]),
        test_tpm2.load_der_public_key(base64.b64decode(found["ak_public"])),
        {index: bytes.fromhex(value) for index, value in enumerate(quote["pcrs"])},
    )


def _gce() -> Case:
    found = test_gcp_vtpm.gce()
    one = next(one for one in found.quotes if one.quote.bank == test_gcp_vtpm.SHA256)
    return _signed(
        f"tpm/{test_gcp_vtpm.GCE}",
        tpm2_quote.encode_quote(one.quote),
        tpm2_quote.encode_signature(one.signature),
        steps.public_key(tpm2_public.parse(tpm2_public.encode(found.ak))),
        dict(one.pcrs),
    )


def _azure(name: str) -> Iterator[Case]:
    """Each signed part of the envelope, put back into it: HCL report, quote, signature, PCRs."""
    text = (test_azure_vtpm.FOLDER / name).read_bytes()
    found = json.loads(text)
    where = found["quote" if "quote" in found else "tpm_quote"]
    hcl = "report" if "report" in found else "hcl_report"

    def put(holder: dict[str, Any], key: Any, value: Any) -> bytes:
        before = holder[key]
        holder[key] = value
        try:
            return json.dumps(found).encode()
        finally:
            holder[key] = before

    def part(what: str, holder: Any, key: Any) -> Case:
        value = holder[key]
        if isinstance(value, list):
            raw, written = bytes(value), list
        elif what == "hcl_report":
            raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
            written = lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")  # noqa: E731
        else:
            raw, written = bytes.fromhex(value), lambda raw: raw.hex()
        offsets = range(len(raw))
        if what == "hcl_report":
            raw = raw[: int.from_bytes(raw[8:12], "little")]  # zeros follow
            # A TDREPORT counts on its own machine alone; the TD quote that stands beside it counts here.
            offsets = [at for at in range(len(raw)) if "snp" in name or not 32 <= at < 1216]
        return Case(
            f"tpm/{name} {what}",
            raw,
            lambda raw: test_azure_vtpm.verify_azure(name, put(holder, key, written(raw))),
            True,
            offsets,
        )

    yield part("hcl_report", found, hcl)
    for what in ("message", "signature"):
        yield part(what, where, what)
    for index in (0, 23):
        yield part(f"pcr{index}", where["pcrs"], index)
