//! Why interceptor S cannot be raised, in words.

use std::io;

/// Nothing is raised. [`SuperviseError::kind`] names the class in `securetf.errors`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {fix}")]
pub struct SuperviseError {
    /// What was found and what was expected.
    pub problem: String,
    /// What the operator does next.
    pub fix: String,
}

impl SuperviseError {
    pub(super) fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        let (problem, fix) = (problem.into(), fix.into());
        Self { problem, fix }
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

/// A system call that the machine refuses.
pub(super) fn unfit(what: &str, error: &io::Error) -> SuperviseError {
    SuperviseError::new(
        format!("interceptor `seccomp`: {what}: {error}"),
        "use Linux 6.7 or newer with Landlock, or interceptor `namespace`",
    )
}
