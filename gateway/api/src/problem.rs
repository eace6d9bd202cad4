//! Errors as the API tells them: RFC 9457 problem documents (`application/problem+json`).
//!
//! The `code` is what a program branches on; `detail` is the sentence for people (what happened, to what, what to do);
//! `errors` names the fields at fault, as paths into the body that was sent (`retention[1].every`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::Role;

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident, $code:literal, $status:literal, $title:literal;)*) => {
        /// What kind of problem it is: what a program branches on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum ProblemCode { $($(#[$doc])* $name,)* }

        impl ProblemCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands in `type` and `code`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// A short title, the same for every problem of this code.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body isn't JSON, or a query parameter can't be read.
    Malformed, "malformed", 400, "The request can't be read";
    /// No token, or one that isn't known here.
    Unauthorized, "unauthorized", 401, "A valid token is required";
    /// The token is valid, but has no role that may do this: see `required_role` and `token_roles`.
    Forbidden, "forbidden", 403, "Not allowed with this token";
    /// No such object or route.
    NotFound, "not-found", 404, "Not found";
    /// The route exists, but not with this method.
    MethodNotAllowed, "method-not-allowed", 405, "This method isn't possible here";
    /// The name is taken, something is in the way, or the state doesn't allow it.
    Conflict, "conflict", 409, "In conflict with the present state";
    /// A second person has to approve it first: see `approval`. The same request does it then.
    ApprovalRequired, "approval-required", 409, "A second person has to approve this";
    /// The object changed since it was read.
    PreconditionFailed, "precondition-failed", 412, "Changed by someone else";
    /// The body is larger than 1 MiB.
    TooLarge, "too-large", 413, "The body is too large";
    /// The body isn't `application/json`.
    UnsupportedMediaType, "unsupported-media-type", 415, "The body must be JSON";
    /// A field has a value that makes no sense: see `errors`.
    Invalid, "invalid", 422, "A value makes no sense";
    /// A change without `If-Match`.
    PreconditionRequired, "precondition-required", 428, "If-Match is required";
    /// More requests than the gateway answers to one caller: wait as long as `Retry-After` says.
    TooManyRequests, "too-many-requests", 429, "Too many requests";
    /// A fault of the gateway's.
    Internal, "internal", 500, "The gateway failed";
    /// The vault can't be reached, or the gateway isn't ready; trying again later may help.
    Unavailable, "unavailable", 503, "Not available now";
    /// The request took too long.
    Timeout, "timeout", 504, "The request took too long";
}

/// A field that is at fault, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Path into the body: `size_bytes`, `retention[1].every`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// An error as the API tells it (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:lifeboat:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short title, the same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What a program branches on.
    pub code: ProblemCode,
    /// What happened, to what, what to do.
    pub detail: String,
    /// The fields at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// What is in the way of a change: objects by kind and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
    /// What was refused for lack of a role needs this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_role: Option<Role>,
    /// The roles that the token has, where it lacked one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_roles: Vec<Role>,
    /// The approval that it needs, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
}

impl Problem {
    /// A problem of this code with a sentence for people.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:lifeboat:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            blockers: Vec::new(),
            required_role: None,
            token_roles: Vec::new(),
            approval: None,
        }
    }

    /// A role that was lacking, and those that were there; the detail is the caller's.
    #[must_use]
    pub fn forbidden(required: Role, found: Vec<Role>, detail: impl Into<String>) -> Self {
        Self { required_role: Some(required), token_roles: found, ..Self::new(ProblemCode::Forbidden, detail) }
    }

    /// Values that make no sense; the detail lists them.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Self { errors, ..Self::new(ProblemCode::Invalid, detail) }
    }

    /// One field that makes no sense.
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// The same, naming what is in the way.
    #[must_use]
    pub fn with_blockers(mut self, blockers: Vec<String>) -> Self {
        self.blockers = blockers;
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_a_code_is_its_text() {
        for code in ProblemCode::ALL {
            assert_eq!(serde_json::to_value(code).expect("a string"), code.as_str());
        }
    }

    #[test]
    fn a_problem_round_trips_and_leaves_out_empty_lists() {
        let problem = Problem::invalid_field("size_bytes", "must be a multiple of 4096");
        let json = serde_json::to_value(&problem).expect("plain data");
        assert_eq!(json["type"], "urn:lifeboat:problem:invalid");
        assert_eq!(json["errors"][0]["field"], "size_bytes");
        assert!(json.get("blockers").is_none());
        assert_eq!(serde_json::from_value::<Problem>(json).expect("round trip"), problem);
    }
}
