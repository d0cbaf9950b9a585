"""Rows of the appraisal of Intel SGX enclaves.

There is no run-time register: the reviewed code is bound by the Manifest hash in the report data, which
the measured launcher checks before it starts anything.
"""

from collections.abc import Iterator

from securetf.appraisal.comparison import Claims, Mismatch, machine, number, register, tcb_status
from securetf.errors import MeasurementError, TcbNotAcceptedError
from securetf.manifest.platforms import SgxPolicy


def mismatches(claims: Claims, policy: SgxPolicy) -> Iterator[Mismatch]:
    """Yield whatever of the claims the policy does not accept."""
    if policy.mr_enclave is None and policy.mr_signer is None:
        yield MeasurementError, "the policy names neither mr_enclave nor mr_signer, which accepts nothing"
    if policy.mr_enclave is not None:
        yield from register("mr_enclave", claims, policy.mr_enclave)
    elif policy.isv_prod_id is None:
        yield MeasurementError, "the policy names mr_signer without isv_prod_id, which accepts nothing"
    if policy.mr_signer is not None:
        yield from register("mr_signer", claims, policy.mr_signer)
    product = number(claims, "isv_prod_id")
    if policy.isv_prod_id is not None and product != policy.isv_prod_id:
        yield MeasurementError, f"isv_prod_id is {product}, expected {policy.isv_prod_id}"
    svn = number(claims, "isv_svn")
    if svn < policy.minimum_isv_svn:
        yield TcbNotAcceptedError, f"isv_svn is {svn}, expected at least {policy.minimum_isv_svn}"
    yield from tcb_status(claims, policy.tcb, policy.tolerate)
    yield from machine(claims, policy.platform_ids)
