"""What `[appraisal.<platform>]` holds for platforms without TDX's registers. docs/reference/manifest.md
explains.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

_ENTRIES = 256

Digest32 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}$", description="64 hex digits in lower case (32 bytes)")
]
Digest48 = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{96}$", description="96 hex digits in lower case (48 bytes)")
]
Digests32 = Annotated[tuple[Digest32, ...], Meta(min_length=1, max_length=_ENTRIES)]
Digests48 = Annotated[tuple[Digest48, ...], Meta(min_length=1, max_length=_ENTRIES)]
Word = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="1 to 64 letters, digits, dots, dashes")
]
Words = Annotated[tuple[Word, ...], Meta(max_length=_ENTRIES)]
PlatformIds = Annotated[
    tuple[
        Annotated[str, Meta(pattern=r"^([0-9a-f]{2}){1,64}$", description="hex digits in lower case")], ...
    ],
    Meta(min_length=1, max_length=_ENTRIES),
]
Svn = Annotated[int, Meta(ge=0, le=255)]
Short = Annotated[int, Meta(ge=0, le=65535)]


class SgxPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference Values and Appraisal Policy of Intel SGX.

    mr_enclave, mr_signer: accepted values, hex; None = not compared, but one of them must be there, and
    beside mr_signer without mr_enclave also isv_prod_id. minimum_isv_svn: lowest version that the signer
    gave. tcb, tolerate, platform_ids: as in `PlatformPolicy`.
    """

    mr_enclave: Digests32 | None = None
    mr_signer: Digests32 | None = None
    isv_prod_id: Short | None = None
    minimum_isv_svn: Short = 0
    tcb: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=_ENTRIES)] = ("UpToDate",)
    tolerate: Words = ()
    platform_ids: PlatformIds = ()


class SnpTcbMinimum(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lowest accepted security version number of each part of the firmware; fmc on Turin only."""

    bootloader: Svn
    tee: Svn
    snp: Svn
    microcode: Svn
    fmc: Svn | None = None


class SnpPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference Values and Appraisal Policy of AMD SEV-SNP.

    measurement, host_data, id_key_digest, author_key_digest: accepted values, hex; None = not compared.
    minimum_tcb: product line to the lowest accepted firmware (reported, committed and at launch); a line
    that is not named is not accepted. maximum_vmpl: 0 is the most privileged level. csp_ids: cloud
    providers whose VLEK may sign in place of the chip's own key. tolerate: `SMT`, `Provisional`, named one
    by one.
    """

    measurement: Digests48
    host_data: Digests32 | None = None
    id_key_digest: Digests48 | None = None
    author_key_digest: Digests48 | None = None
    minimum_tcb: dict[Literal["Milan", "Genoa", "Turin"], SnpTcbMinimum]
    minimum_guest_svn: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    maximum_vmpl: Annotated[int, Meta(ge=0, le=3)] = 0
    csp_ids: Annotated[
        tuple[
            Annotated[
                str,
                Meta(
                    pattern=r"^[A-Za-z0-9=., -]{1,127}$",
                    description="a csp id, such as CN=cc-us-east-2.amazonaws.com",
                ),
            ],
            ...,
        ],
        Meta(max_length=_ENTRIES),
    ] = ()
    tolerate: Words = ()
    platform_ids: PlatformIds = ()


PcrName = Annotated[str, Meta(pattern=r"^pcr([0-9]|[12][0-9]|3[01])$", description="pcr0 to pcr31")]
PcrValues = Annotated[
    tuple[
        Annotated[
            str,
            Meta(
                pattern=r"^([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$",
                description="64, 96 or 128 hex digits in lower case",
            ),
        ],
        ...,
    ],
    Meta(min_length=1, max_length=_ENTRIES),
]


class PcrPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference Values and Appraisal Policy of AWS Nitro, and of TPMs.

    pcrs: `pcr0` to `pcr31` to accepted values, hex; at least one, and of Nitro `pcr0`. A PCR that is not
    named is not compared. tcb, tolerate, platform_ids: as in `PlatformPolicy`; neither platform reports a
    TCB.
    """

    pcrs: Annotated[dict[PcrName, PcrValues], Meta(min_length=1, max_length=32)]
    tcb: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=_ENTRIES)] = ("NotReported",)
    tolerate: Words = ()
    platform_ids: PlatformIds = ()


class AzureTdxPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is accepted of the TD report of an Azure TDX machine, which shows Azure's paravisor.

    mr_td: accepted measurements, hex. rtmr0 to rtmr3: accepted values, None = not compared; the vTPM's PCRs
    show what runs above the paravisor. tcb, tolerate: as in `PlatformPolicy`.
    """

    mr_td: Digests48
    rtmr0: Digests48 | None = None
    rtmr1: Digests48 | None = None
    rtmr2: Digests48 | None = None
    rtmr3: Digests48 | None = None
    tcb: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=_ENTRIES)] = ("UpToDate",)
    tolerate: Words = ()


class AzurePolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference Values and Appraisal Policy of Azure confidential VMs: of both steps, or nothing is accepted.

    pcrs: of the vTPM, as in `PcrPolicy`; at least one. sev_snp, tdx: of the hardware report, which binds the
    vTPM's key; hardware that is not named is not accepted. platform_ids: accepted machines, hex; empty = any.
    """

    pcrs: Annotated[dict[PcrName, PcrValues], Meta(min_length=1, max_length=32)]
    sev_snp: SnpPolicy | None = None
    tdx: AzureTdxPolicy | None = None
    platform_ids: PlatformIds = ()
