"""The way out of each error, for `securetf explain` and the reference; the docstring has the cause."""

WAYS_OUT = {  # name of the class in securetf.errors → what to do
    "SecuretfError": "run `securetf --traceback …` with the same arguments, and report what it prints.",
    "UsageError": (
        "`securetf COMMAND --help` shows the arguments; the message names the one that does not fit."
    ),
    "EnvironmentUnfitError": (
        "do what the message says on this machine, or use another one. Mounts need root and Linux."
    ),
    "FuseUnavailableError": (
        "`modprobe fuse`; in a container, pass the device: `--device /dev/fuse --cap-add SYS_ADMIN`."
    ),
    "PortInUseError": (
        "end the other process (`ss -ltnp` names it) or give another address; port 0 takes a free one."
    ),
    "NoSpaceError": "free space on the disk that holds the volume or the CAS's data, and run again.",
    "ManifestError": (
        "`securetf manifest check FILE` finds such errors offline; docs/reference/manifest.md has every key."
    ),
    "ManifestSyntaxError": (
        "correct the line that is named. A Manifest is TOML in UTF-8 and has at most 256 KiB."
    ),
    "ManifestValueError": "correct the key that is named; docs/reference/manifest.md says what it may hold.",
    "ManifestPredecessorError": (
        "read the current version (`securetf session read`), see what changed (`securetf manifest diff`), "
        "put its hash into `predecessor`, and submit again."
    ),
    "ManifestHashError": (
        "take the current version from `securetf session read`, or submit this one with `securetf session "
        "update`."
    ),
    "ClientPolicyError": "correct the key that is named; docs/formats/client-policy-v1.md has every key.",
    "EvidenceError": (
        "the message names the leg that failed. Send nothing to the other side until it can prove itself."
    ),
    "MalformedEvidenceError": (
        "check that both sides run the same release and that the file or message was not cut or padded."
    ),
    "UnsupportedPlatformError": "use a platform of docs/platforms.md that the verifier was configured for.",
    "SignatureError": (
        "if the machine is yours, check its platform's certificates; otherwise treat it as hostile."
    ),
    "EndorsementError": (
        "fetch fresh collateral for this platform; check the clock of the machine that verifies."
    ),
    "TcbError": "update the machine's firmware and microcode; until then it must not hold secrets.",
    "ConfigurationError": (
        "start the TEE without debug and migration, as docs/platforms.md says for the platform."
    ),
    "BindingError": (
        "let the workload attest directly to this CAS, with fresh Evidence. If it repeats, someone is in "
        "between."
    ),
    "NonceError": "attest again: a challenge counts once, for one session, and for a short time.",
    "SimulationRefusedError": (
        "run on real hardware. For development, start the CAS with `--insecure-simulation`, with no real "
        "data."
    ),
    "AttesterError": "run inside a TEE of docs/platforms.md, or use `--insecure-simulation` for development.",
    "TpmResponseError": (
        "check the TPM with its vendor's tools; its owner and endorsement passwords must be empty."
    ),
    "EndorsementMissingError": (
        "`securetf endorsements fetch` what the Evidence needs; without a network, `import` what another "
        "machine fetched."
    ),
    "EndorsementExpiredError": (
        "`securetf endorsements fetch` or `import` newer ones; `show` prints until when each counts. If they "
        "should count, check the clock."
    ),
    "EndorsementSourceError": (
        "check the service's address, the network and the proxy; or fetch on another machine and "
        "`securetf endorsements import`."
    ),
    "AppraisalError": (
        "compare what was expected and found. Change the software to what was approved, or approve it in "
        "a new version of the Manifest."
    ),
    "MeasurementError": (
        "start the approved software and code; or, if the new one was reviewed, put its value into "
        "`[appraisal]` (`securetf measure`) or the volume's `root` in a new version of the Manifest."
    ),
    "TcbNotAcceptedError": (
        "update the machine's firmware; or name the status or advisory in `tolerate`, if the risk was "
        "weighed."
    ),
    "PlatformNotAllowedError": (
        "add `[appraisal.PLATFORM]` or the machine's identity in `platform_ids` in a new version of the "
        "Manifest."
    ),
    "TokenError": "attest again for a fresh token, and use it with the key that was attested.",
    "CasRefusedError": "the message says what was expected; the audit log has the same entry.",
    "NotAuthorisedError": (
        "sign with a key that `[access]` names (`--key`), and check the clock of this machine."
    ),
    "NotFoundError": "check the name and that the key may read the session.",
    "ConflictError": "read the current state and decide again; nothing was changed.",
    "FencedError": (
        "end this program: what it had committed before is kept. Find out who else started this instance, or "
        "mounted the volume for writing."
    ),
    "LimitError": "send less or less often; the message names the limit.",
    "CasUnreachableError": (
        "check that the CAS runs and that its address is reachable: `securetf cas status`."
    ),
    "CasIdentityError": (
        "if the CAS was set up anew by its owner, attest it again (`securetf cas attest`); otherwise "
        "someone is in between."
    ),
    "CasProtocolError": "use the same release on both sides.",
    "CasStateError": (
        "put back the last good copy of the CAS's data that is not older than its anchor. Keep the "
        "damaged one: it is evidence."
    ),
    "CasRollbackError": (
        "put back the newest copy of the CAS's data. Going on with an older one would hand out old "
        "Manifests and old volume states."
    ),
    "AuditError": "keep the log as evidence, and compare it with the heads that were exported before.",
    "KeyFileError": "make a key with `securetf key new`, keep it with mode 0600, and name the right file.",
    "UnsealError": "repeat the request: the message was made for another key or altered on its way.",
    "VolumeError": "the message names the volume and what failed.",
    "VolumeFormatError": "name the volume's own directory, and use a release that reads its format version.",
    "VolumeBusyError": "end the other process that has the volume open for writing, or wait for it.",
    "VolumeIoError": "check the disk or the mount under the volume's directory; what was committed is kept.",
    "VolumeIntegrityError": (
        "put back the volume's files as they were committed. `securetf volume check` names all that is "
        "damaged."
    ),
    "VolumeRollbackError": (
        "put back the newest copy of the volume's directory. If there is none, the owner packs the data "
        "again."
    ),
    "VolumeKeyError": (
        "check that the directory is that of the named volume, and that the session is the one that made it."
    ),
    "LaunchError": (
        "`securetf run … --dry-run` shows what is started and mounted where; correct the Manifest or the "
        "machine."
    ),
    "CommitFailedError": (
        "do not take the result for saved. Make the CAS reachable and run again from the last commit."
    ),
    "NetworkShieldError": (
        "the message names the step. Interceptor `namespace` needs root and the packages nftables and "
        "iproute2; `seccomp` needs Linux 6.7 with Landlock. docs/how-to/distributed-training.md tells more."
    ),
    "MembersMissingError": (
        "start the members that are named, or see in their logs why they were refused; "
        "`securetf session members` shows who attested when. `--members-deadline` waits longer."
    ),
    "DemoError": "`securetf demo` shows the step; run it again, and report the output if it repeats.",
    "ServiceNotProvedError": (
        "`securetf verify URL --policy FILE --explain` lists every check. Change the policy only after you "
        "have learnt, from somebody other than the service, that the new values are right."
    ),
    "StatementError": (
        "check address and port: the service needs `[workloads.X.outside]` in its Manifest, and nothing that "
        "terminates TLS may stand before it."
    ),
    "ReceiptError": "treat the answer as not given by this service; the message says which link is broken.",
    "ServiceUnreachableError": "check that the service runs, its address and the network, then try again.",
    "ClientNotAuthorisedError": (
        "the service is the right one: have its owner add your public key to `clients` of the `outside` "
        "rule, and give the private key with `--client-key`."
    ),
    "ServingError": "the message names what the service lacks; docs/how-to/serve.md has the whole picture.",
    "ModelLoadError": (
        "load the model with its engine alone; `GET /v1/models/MODEL` says the reason for each version. "
        "One .tflite, .keras or SavedModel stands in each MODEL/VERSION/."
    ),
    "Refusal": "correct the request as the text says; docs/how-to/serve.md lists limits and statuses.",
    "ReceiptUnavailableError": (
        "start the service with `securetf run`, and `receipts = true` in its workload's table."
    ),
    "ConversionError": (
        "look at the difference that is named: allow it with --tolerance, or convert to float32."
    ),
}
