//! Why the network namespace cannot be raised, in words.

use std::io;

/// Nothing is raised. [`NamespaceError::kind`] names the class in `securetf.errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceError {
    /// What was found and what was expected.
    pub problem: String,
    /// What the operator does next.
    pub fix: String,
}

impl NamespaceError {
    pub(super) fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        let (problem, fix) = (problem.into(), fix.into());
        Self { problem, fix }
    }

    /// A system call that the machine refuses.
    pub(super) fn refused(what: &str, error: &io::Error) -> Self {
        Self::new(
            format!("{what}: {error}"),
            "run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN, or use `--interceptor seccomp`",
        )
    }

    /// The class of `securetf.errors` that this error becomes.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "NetworkShieldError"
    }

    /// What was found and what was expected.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What the operator does next.
    #[must_use]
    pub fn fix(&self) -> &str {
        &self.fix
    }
}

impl std::fmt::Display for NamespaceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}; {}", self.problem, self.fix)
    }
}

impl std::error::Error for NamespaceError {}
