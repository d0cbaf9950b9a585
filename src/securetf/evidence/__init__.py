"""Readers of raw Evidence, and the transcript it is bound to. Pure; nothing here is authenticated."""
