//! Why the program was not started, in words.

/// The program does not run. [`ConfineError::kind`] names the class in `securetf.errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfineError {
    /// The command or the working directory does not fit: missing, not executable.
    Launch {
        /// What was found and what was expected.
        problem: String,
        /// What the operator does next.
        fix: String,
    },
    /// The machine refuses a part of the confinement, so nothing was started.
    Unfit {
        /// What was found and what was expected.
        problem: String,
        /// What the operator does next.
        fix: String,
    },
}

impl ConfineError {
    /// The class of `securetf.errors` that this error becomes.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Launch { .. } => "LaunchError",
            Self::Unfit { .. } => "EnvironmentUnfitError",
        }
    }

    /// What was found and what was expected.
    #[must_use]
    pub fn problem(&self) -> &str {
        match self {
            Self::Launch { problem, .. } | Self::Unfit { problem, .. } => problem,
        }
    }

    /// What the operator does next.
    #[must_use]
    pub fn fix(&self) -> &str {
        match self {
            Self::Launch { fix, .. } | Self::Unfit { fix, .. } => fix,
        }
    }

    pub(crate) fn launch(problem: String, fix: &str) -> Self {
        let fix = fix.to_owned();
        Self::Launch { problem, fix }
    }

    pub(crate) fn unfit(problem: String, fix: &str) -> Self {
        let fix = fix.to_owned();
        Self::Unfit { problem, fix }
    }
}

impl std::fmt::Display for ConfineError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}; {}", self.problem(), self.fix())
    }
}

impl std::error::Error for ConfineError {}
