"""What a connection to a service proves, and what it does not: the text of `securetf verify --explain`."""

MEANING = {  # name of the check → what it is good for
    "tls": "Whoever answered holds the private key of this connection; TLS 1.3 proves it.",
    "policy": "You have set an end to your own decision, so that old measurements are not trusted for ever.",
    "statement": "The answer has exactly the form of its version; what is unknown is refused.",
    "cas": "The service stands under the CAS that you attested and pinned, and under no other.",
    "token-key": "The key that signs attestation results belongs to that CAS: its audit key says so.",
    "ear-signature": "The CAS, which runs in a TEE, has verified and appraised Evidence of a machine.",
    "ear-issuer": "The result was made by this CAS for this session; one for another is worth nothing.",
    "ear-subject": "It is about the workload that you want, not another one of the same session.",
    "ear-time": "It is minutes old: the machine was accepted then. Replaying an old one fails here.",
    "simulation": "A simulation proves nothing about any machine; only a policy that says so accepts one.",
    "ear-status": "The CAS's own verdict over the machine.",
    "measurement": "The machine started the software that your policy names, in an accepted state.",
    "binding-signature": "It was signed with the key that the Evidence binds: no copied token passes.",
    "nonce": "It was signed just now, for you: the 32 bytes were yours.",
    "network-key": "The key of the TLS connection is the attested one: nobody stands between.",
    "binding-subject": "Result and statement tell of the same instance.",
    "manifest": "Commands, arguments, mounts and rules are those of a Manifest that you accept.",
    "volumes": "Code, model and data are the versions that you accept, and not older ones.",
    "certificate": "The session's authority has issued this certificate for this key and Manifest.",
}
PROVES = """\
What a connection proves, if all checks hold:
  - the peer is a process that a TEE measured, with the software, Manifest and volumes above;
  - what you send can be read by that process and by nobody on the way, its operator included;
  - it was so minutes ago; a connection is cut or proved anew when the attestation ends.

What it does not prove:
  - that the software is good: somebody has to have read what has this measurement and these roots;
  - that you are allowed to use it: keys of clients are another matter, with another error (STF-1520);
  - that an answer is right, or what the service does with your data beyond what its code says;
  - that sizes and times of messages tell nothing; those, and your address, are seen by the network;
  - anything against defects of the CPU, physical attacks on memory, side channels (LIMITATIONS.md).
"""
SIMULATED = (
    "SIMULATION: the policy accepts an INSECURE SIMULATION. Nothing above says anything about a machine;"
    " send nothing that matters."
)
