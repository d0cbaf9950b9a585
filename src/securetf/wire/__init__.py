"""Messages between workload, owner and CAS: version 1, JSON, bytes as base64. docs/formats/wire-v1.md

Each message is one frozen struct. `decode` refuses unknown fields, wrong types, wrong sizes and too large
bodies; whatever has been decoded has the form that the struct says, and nothing more is known about it.
"""

from securetf.wire.codec import MAX_BODY_BYTES, MAX_DEPTH, decode, encode
from securetf.wire.messages import (
    AdvanceRequest,
    AttestRequest,
    AttestResponse,
    AuditEntryLine,
    AuditHead,
    AuditPage,
    CasEvidenceRequest,
    CasEvidenceResponse,
    ChallengeRequest,
    ChallengeResponse,
    Done,
    ErrorDocument,
    GrantRequest,
    MembersView,
    MemberView,
    SealedResponse,
    SecretImportRequest,
    SessionCreateRequest,
    SessionHistory,
    SessionUpdateRequest,
    SessionView,
    StatusResponse,
    VersionView,
    VolumeState,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_DEPTH",
    "AdvanceRequest",
    "AttestRequest",
    "AttestResponse",
    "AuditEntryLine",
    "AuditHead",
    "AuditPage",
    "CasEvidenceRequest",
    "CasEvidenceResponse",
    "ChallengeRequest",
    "ChallengeResponse",
    "Done",
    "ErrorDocument",
    "GrantRequest",
    "MembersView",
    "MemberView",
    "SealedResponse",
    "SecretImportRequest",
    "SessionCreateRequest",
    "SessionHistory",
    "SessionUpdateRequest",
    "SessionView",
    "StatusResponse",
    "VersionView",
    "VolumeState",
    "decode",
    "encode",
]
