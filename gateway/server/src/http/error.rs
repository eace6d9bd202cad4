//! The one place where an error becomes an HTTP answer.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use lifeboat_api::problem::PROBLEM_JSON;
use lifeboat_api::{FieldError, Problem, ProblemCode};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_vault::{VaultError, VaultErrorKind};

/// An error that knows its HTTP answer.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) Box<Problem>);

/// Results of handlers.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Problem::new(code, detail).into()
    }

    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Problem::invalid_field(field, message).into()
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ProblemCode::Conflict, detail)
    }

    /// A field that clashes with what is there.
    pub(crate) fn conflict_at(field: &str, message: impl Into<String>) -> Self {
        Self::clash(vec![FieldError { field: field.to_owned(), message: message.into() }])
    }

    /// Fields that clash with what is there: they could stand so if that were otherwise.
    pub(crate) fn clash(errors: Vec<FieldError>) -> Self {
        let Problem { detail, errors, .. } = Problem::invalid(errors);
        Problem { errors, ..Problem::new(ProblemCode::Conflict, detail) }.into()
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(ProblemCode::NotFound, format!("there is no {what} {id} here; list them to see what there is"))
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<Vec<FieldError>> for ApiError {
    fn from(errors: Vec<FieldError>) -> Self {
        Problem::invalid(errors).into()
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        let code = match error.kind() {
            VaultErrorKind::Retry | VaultErrorKind::Denied | VaultErrorKind::NoBucket => ProblemCode::Unavailable,
            VaultErrorKind::InvalidInput => ProblemCode::Invalid,
            VaultErrorKind::NotFound => ProblemCode::NotFound,
            VaultErrorKind::AlreadyExists | VaultErrorKind::Conflict | VaultErrorKind::Erased => ProblemCode::Conflict,
            _ => ProblemCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let code = match error.kind() {
            ErrorKind::Retry | ErrorKind::Denied | ErrorKind::Closed => ProblemCode::Unavailable,
            ErrorKind::Invalid => ProblemCode::Invalid,
            ErrorKind::NotFound => ProblemCode::NotFound,
            ErrorKind::Fenced => ProblemCode::Conflict,
            _ => ProblemCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        if problem.status >= 500 {
            tracing::warn!(code = problem.code.as_str(), detail = %problem.detail, "request failed");
        }
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&*problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.extensions_mut().insert(problem.code);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if problem.code == ProblemCode::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let pause = match problem.code {
            ProblemCode::Unavailable => Some("2"),
            ProblemCode::TooManyRequests => Some("1"),
            _ => None,
        };
        if let Some(pause) = pause {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(pause));
        }
        response
    }
}
