"""Compares VerifiedClaims with an Appraisal Policy and its Reference Values. Pure."""

from securetf.appraisal.composite import appraise_all
from securetf.appraisal.policy import AttestationResult, Policy, appraise

__all__ = ["AttestationResult", "Policy", "appraise", "appraise_all"]
