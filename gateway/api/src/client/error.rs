//! What can go wrong with a request, sorted by what the caller can do about it.

use crate::problem::{FieldError, Problem, ProblemCode};

/// What the caller has to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientErrorKind {
    /// No endpoint could be reached, or the vault behind it: try again later.
    Unreachable,
    /// The token or the certificate isn't accepted.
    Unauthorized,
    /// The token is valid, but has no role that may do this.
    Forbidden,
    /// No such object.
    NotFound,
    /// The object changed since it was read, the name is taken, or something is in the way.
    Conflict,
    /// A field has a value that makes no sense: see [`ClientError::fields`].
    Invalid,
    /// The configuration of this client makes no sense.
    Usage,
    /// The gateway failed, or answered something that can't be understood.
    Failed,
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub struct ClientError {
    kind: ClientErrorKind,
    message: String,
    problem: Option<Box<Problem>>,
    maybe_sent: bool,
}

impl ClientError {
    /// What the caller has to do.
    #[must_use]
    pub const fn kind(&self) -> ClientErrorKind {
        self.kind
    }

    /// The gateway's own words, when it answered.
    #[must_use]
    pub fn as_problem(&self) -> Option<&Problem> {
        self.problem.as_deref()
    }

    /// The fields at fault.
    #[must_use]
    pub fn fields(&self) -> &[FieldError] {
        self.problem.as_ref().map_or(&[], |problem| &problem.errors)
    }

    /// What is in the way of a change, by kind and name.
    #[must_use]
    pub fn blockers(&self) -> &[String] {
        self.problem.as_ref().map_or(&[], |problem| &problem.blockers)
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == ClientErrorKind::NotFound
    }

    /// Whether the request may have been carried out although no answer came.
    #[must_use]
    pub const fn maybe_sent(&self) -> bool {
        self.maybe_sent
    }

    fn new(kind: ClientErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), problem: None, maybe_sent: false }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ClientErrorKind::Usage, message)
    }

    pub(super) fn unreachable(endpoint: &str, why: &str, maybe_sent: bool) -> Self {
        Self { maybe_sent, ..Self::new(ClientErrorKind::Unreachable, format!("{endpoint}: {why}")) }
    }

    pub(super) fn certificate(endpoint: &str, why: &str, machine: bool) -> Self {
        let message = if machine {
            format!(
                "{endpoint}: its certificate isn't signed by the authority of this machine's vault ({why}): it is no gateway of that vault, \
                 or not yet; check the endpoint"
            )
        } else {
            format!(
                "{endpoint}: its certificate isn't signed by the authority in LIFEBOAT_CA_CERT ({why}); use the ca.pem of that gateway's state directory"
            )
        };
        Self::new(ClientErrorKind::Unauthorized, message)
    }

    pub(super) fn all_unreachable(mut each: Vec<Self>) -> Self {
        if each.len() == 1
            && let Some(only) = each.pop()
        {
            return Self {
                message: format!(
                    "can't reach the gateway at {}; check that it runs and that the address is right",
                    only.message
                ),
                ..only
            };
        }
        let list = each.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ");
        Self {
            maybe_sent: each.iter().any(|error| error.maybe_sent),
            ..Self::new(
                ClientErrorKind::Unreachable,
                format!("can't reach any gateway ({list}); check that one runs and that the addresses are right"),
            )
        }
    }

    pub(super) fn not_understood(path: &str, why: &str) -> Self {
        Self::new(
            ClientErrorKind::Failed,
            format!(
                "the answer to {path} can't be understood ({why}); are the gateway and this program of the same version?"
            ),
        )
    }

    pub(super) fn ambiguous(path: &str, name: &str) -> Self {
        Self::new(ClientErrorKind::Conflict, format!("{path}: there are several named {name:?}; use an id"))
    }

    pub(super) fn problem(problem: Problem) -> Self {
        let kind = match problem.code {
            ProblemCode::Unauthorized => ClientErrorKind::Unauthorized,
            ProblemCode::Forbidden => ClientErrorKind::Forbidden,
            ProblemCode::NotFound => ClientErrorKind::NotFound,
            ProblemCode::Conflict
            | ProblemCode::ApprovalRequired
            | ProblemCode::PreconditionFailed
            | ProblemCode::PreconditionRequired => ClientErrorKind::Conflict,
            ProblemCode::Invalid | ProblemCode::Malformed | ProblemCode::TooLarge => ClientErrorKind::Invalid,
            ProblemCode::Unavailable | ProblemCode::Timeout | ProblemCode::TooManyRequests => {
                ClientErrorKind::Unreachable
            }
            ProblemCode::MethodNotAllowed | ProblemCode::UnsupportedMediaType | ProblemCode::Internal => {
                ClientErrorKind::Failed
            }
        };
        Self { problem: Some(Box::new(problem.clone())), ..Self::new(kind, problem.detail) }
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ClientError {}
