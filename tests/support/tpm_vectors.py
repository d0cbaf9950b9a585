"""What the shared vectors' manifest says of a TPM quote."""

from typing import Any

from securetf.evidence.tpm2_quote import HASH_NAMES, Quote
from support.shared_vectors import VECTORS, entries

ENTRIES = entries("tpm")
FOLDER = VECTORS / "tpm"


def same(quote: Quote, expected: dict[str, Any]) -> None:
    """Compare a quote with what the manifest says of it."""
    assert quote.qualified_signer.hex() == expected["qualifiedSigner"]
    assert quote.extra_data.hex() == expected["extraData"]
    assert (quote.clock, quote.reset_count) == (expected["clock"], expected["resetCount"])
    assert (quote.restart_count, quote.safe) == (expected["restartCount"], bool(expected["safe"]))
    assert quote.firmware == int(expected["firmware"], 16)
    assert [[HASH_NAMES[quote.bank], list(quote.selection)]] == expected["sel"]
    assert quote.pcr_digest.hex() == expected["pcrDigest"]
