"""What a Manifest holds: frozen values, one class per table. docs/reference/manifest.md explains the keys."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from securetf.manifest.platforms import AzurePolicy, PcrPolicy, SgxPolicy, SnpPolicy

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of volumes, secrets and workloads; also segments of a SPIFFE ID
REGISTER_HEX = r"^[0-9a-f]{96}$"  # 48 bytes
MAX_ENTRIES = 256  # of any one table or list
MAX_INSTANCES = 1024  # of one workload

Hash = Annotated[
    str, Meta(pattern=r"^sha256:[0-9a-f]{64}$", description='"sha256:" and 64 hex digits in lower case')
]
KeyId = Annotated[
    str,
    Meta(
        pattern=r"^(creator|ed25519:[0-9a-f]{64})$",
        description='"creator", or "ed25519:" and the public key as 64 hex digits in lower case',
    ),
]
Register = Annotated[str, Meta(pattern=REGISTER_HEX, description="96 hex digits in lower case (48 bytes)")]
Registers = Annotated[tuple[Register, ...], Meta(min_length=1, max_length=MAX_ENTRIES)]
Word = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="1 to 64 letters, digits, dots, dashes")
]
Name = Annotated[
    str, Meta(pattern=rf"^{NAME}$", description="1 to 64 letters, digits, dots, dashes, underscores")
]
Argument = Annotated[str, Meta(max_length=65536, pattern=r"^[^\x00]*$", description="text without a NUL")]
Peer = Annotated[
    str,
    Meta(
        pattern=rf"^{NAME}:{NAME}$",
        description='"workload:rule", the name of a workload and of one of its `listen` rules',
    ),
]
Outside = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?:[1-9][0-9]{0,4}$",
        description='"name:port", a DNS name in lower case and a TCP port',
    ),
]
Protocol = Annotated[
    str, Meta(pattern=r"^[a-z0-9./-]{1,32}$", description='a protocol of TLS\'s ALPN, such as "h2"')
]
PublicKey = Annotated[
    str,
    Meta(
        pattern=r"^-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]{1,512}\n?-----END PUBLIC KEY-----\n?$",
        description='a public key as PEM, "-----BEGIN PUBLIC KEY-----" first',
    ),
]
EnvironmentName = Annotated[
    str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,255}$", description="letters, digits and underscores")
]


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`name`: tenant/session. `predecessor`: hash of the version before this one; absent in the first."""

    name: Annotated[
        str,
        Meta(
            pattern=rf"^{NAME}/{NAME}$", description="tenant/session, each of letters, digits, dots, dashes"
        ),
    ]
    predecessor: Hash | None = None


class Access(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which owners' keys may read and which may replace the Manifest; an empty list means nobody."""

    read: Annotated[tuple[KeyId, ...], Meta(max_length=MAX_ENTRIES)] = ("creator",)
    update: Annotated[tuple[KeyId, ...], Meta(max_length=MAX_ENTRIES)] = ("creator",)


class PlatformPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reference Values and Appraisal Policy for one platform with TDX's registers.

    mr_td: accepted measurements of the software, hex. rtmr0 to rtmr2: accepted values, None = not compared.
    tcb: accepted TCB statuses. tolerate: statuses and advisories accepted besides, named one by one.
    platform_ids: accepted machines, hex; empty (key left out) = any machine.
    """

    mr_td: Registers
    rtmr0: Registers | None = None
    rtmr1: Registers | None = None
    rtmr2: Registers | None = None
    tcb: Annotated[tuple[Word, ...], Meta(min_length=1, max_length=MAX_ENTRIES)] = ("UpToDate",)
    tolerate: Annotated[tuple[Word, ...], Meta(max_length=MAX_ENTRIES)] = ()
    platform_ids: Annotated[
        tuple[
            Annotated[str, Meta(pattern=r"^([0-9a-f]{2}){1,64}$", description="hex digits in lower case")],
            ...,
        ],
        Meta(min_length=1, max_length=MAX_ENTRIES),
    ] = ()


PlatformName = Literal[
    "tdx", "insecure_simulation", "sgx", "sev_snp", "nitro", "tpm2", "gcp_vtpm", "azure_vtpm"
]
# The class of `[appraisal.<platform>]`, by the platform's name.
POLICIES: Mapping[str, type[Struct]] = MappingProxyType(
    {
        "tdx": PlatformPolicy,
        "insecure_simulation": PlatformPolicy,
        "sgx": SgxPolicy,
        "sev_snp": SnpPolicy,
        "nitro": PcrPolicy,
        "tpm2": PcrPolicy,
        "gcp_vtpm": PcrPolicy,
        "azure_vtpm": AzurePolicy,
    }
)


Binding = Literal["key", "session"]


class Secret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`random`: made by the CAS, `size_bytes` long, seen by nobody. `value`: imported, size_bytes 0."""

    kind: Literal["random", "value"]
    size_bytes: Annotated[int, Meta(ge=1, le=4096)] = 0


class Volume(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One protected directory. `writer`: the workload that may write it; absent = written by owners' packing.

    protection: of its contents on the storage. `authenticated`: plain files in place, which owners pack and
    workloads read. `ephemeral`: encrypted under a key of one run and gone after it; unknown to the CAS.
    freshness: `group` (commits are anchored in groups), `strict` (closing and renaming wait for the anchor),
    `async` (fsync waits for the storage alone; the anchor follows), `follow` (as `group`, and running readers
    move to newer roots) or `pinned` (never written by a workload).
    root: the one version that may be mounted, only with `pinned`. export: owners' keys that may take out the
    volume key of a volume that a workload writes. per_instance: each instance of a workload has its own,
    known as NAME.INSTANCE.
    """

    protection: Literal["encrypted", "authenticated", "ephemeral"] = "encrypted"
    writer: Name | None = None
    freshness: Literal["group", "strict", "async", "follow", "pinned"] = "group"
    root: Hash | None = None
    export: Annotated[tuple[KeyId, ...], Meta(max_length=MAX_ENTRIES)] = ()
    per_instance: bool = False


class Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for the certificates of all members; they are renewed at half of their lifetime."""

    certificate_lifetime_s: Annotated[int, Meta(ge=10, le=604_800)] = 3600


class Instances(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many run: 0 to `minimum` - 1 are always needed, those below `maximum` may come and go."""

    minimum: Annotated[int, Meta(ge=1, le=MAX_INSTANCES)] = 1
    maximum: Annotated[int, Meta(ge=1, le=MAX_INSTANCES)] = 1


class Listen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TCP port of the program, and the workloads whose members may connect to it."""

    port: Annotated[int, Meta(ge=1, le=65535)]
    sources: Annotated[tuple[Name, ...], Meta(max_length=MAX_ENTRIES)] = field(name="from", default=())


class OutsideListen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TCP port of the program for clients that are no members: the shield ends their TLS.

    public: the host's port, where the operator names no other. alpn: protocols that the program speaks, the
    preferred one first. clients: their public keys as PEM; None = anybody, empty = nobody.
    """

    port: Annotated[int, Meta(ge=1, le=65535)]
    public: Annotated[int, Meta(ge=1, le=65535)]
    alpn: Annotated[tuple[Protocol, ...], Meta(min_length=1, max_length=8)] = ("http/1.1", "h2")
    clients: Annotated[tuple[PublicKey, ...], Meta(max_length=MAX_ENTRIES)] | None = None


class Workload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One program and all that it gets. Nothing is added by the host but what `host_environment` names.

    volumes: volume name to "/path:ro" or "/path:rw". secrets: secret name to "file:/path" or "env:NAME".
    memory: directory to size in bytes of a private file system in memory that the program may write.
    listen: rule's name to port; connect: "workload:rule"; external: "name:port" outside of the session, to
    which the program speaks TLS itself; outside: ports for clients that are no members. Without them the
    program has no network but its own loopback. receipts: the program gets a key to sign receipts with.
    tensorflow_cluster: the cluster for which the CAS issues TF_CONFIG; tensorflow_task: its task type, None =
    the workload's name. user_id: who the program runs as, None = as the launcher, without capabilities.
    host_paths: path to `ro` or `rw` of all that the program sees of the machine's files; None = everything.
    """

    command: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=1024)]
    environment: dict[EnvironmentName, Argument] = {}
    host_environment: Annotated[tuple[EnvironmentName, ...], Meta(max_length=MAX_ENTRIES)] = ()
    volumes: dict[Name, str] = {}
    secrets: dict[Name, str] = {}
    memory: dict[str, Annotated[int, Meta(ge=4096, le=2**50)]] = {}
    working_directory: str = "/"
    instances: Instances = Instances()
    listen: Annotated[dict[Name, Listen], Meta(max_length=MAX_ENTRIES)] = {}
    connect: Annotated[tuple[Peer, ...], Meta(max_length=MAX_ENTRIES)] = ()
    external: dict[Outside, Literal["tls passthrough"]] = {}
    outside: Annotated[dict[Name, OutsideListen], Meta(max_length=16)] = {}
    receipts: bool = False
    tensorflow_cluster: Name | None = None
    tensorflow_task: Literal["chief", "worker", "ps", "evaluator"] | None = None
    user_id: Annotated[int, Meta(ge=1, le=2**32 - 2)] | None = None
    host_paths: dict[str, Literal["ro", "rw"]] | None = None


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of a session: who may change it, whom it trusts, what it keeps and what it runs.

    require: platforms whose Evidence each attestation must have, all of them (`require` in `[appraisal]`);
    empty: one of those in `appraisal` is enough. binding: `session` demands that each attestation is
    bound to the TLS connection on which it arrives (`binding` in `[appraisal]`).
    """

    session: Session
    access: Access = Access()
    appraisal: dict[PlatformName, PlatformPolicy | SgxPolicy | SnpPolicy | PcrPolicy] = {}
    require: tuple[PlatformName, ...] = ()
    binding: Binding = "key"
    network: Network = Network()
    secrets: dict[Name, Secret] = {}
    volumes: dict[Name, Volume] = {}
    workloads: dict[Name, Workload] = {}
