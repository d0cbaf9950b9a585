"""The Configuration and Attestation Service: verify, appraise, release; with durable, authenticated state."""
