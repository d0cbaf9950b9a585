//! Starts the unmodified program confined: static seccomp filter, no privileges, dies with its launcher.
