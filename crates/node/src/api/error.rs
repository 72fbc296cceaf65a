//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` under the status
//! code that its clients act on (they retry 429 and 5xx and raise everything else).

use crate::service::{Failure, FailureKind};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// `code` of a prompt that does not fit the context.
pub const CONTEXT_LENGTH_EXCEEDED: &str = "context_length_exceeded";

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status code.
    pub status: StatusCode,
    /// Class of the error, e.g. `invalid_request_error`.
    pub kind: &'static str,
    /// What was got, what was expected.
    pub message: String,
    /// The field of the request.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// 400: the request cannot be served as it is.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::client(StatusCode::BAD_REQUEST, message, None)
    }

    /// 400: a field cannot be served as it is.
    #[must_use]
    pub fn field(param: &str, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            param: Some(param.into()),
            ..ApiError::client(StatusCode::BAD_REQUEST, message, Some(code))
        }
    }

    /// Another 4xx.
    #[must_use]
    pub fn client(status: StatusCode, message: impl Into<String>, code: Option<&'static str>) -> ApiError {
        ApiError { status, kind: "invalid_request_error", message: message.into(), param: None, code }
    }

    /// 400 with OpenAI's code for it: prompt and answer do not fit.
    #[must_use]
    pub fn context_length(param: &str, message: impl Into<String>) -> ApiError {
        ApiError::field(param, CONTEXT_LENGTH_EXCEEDED, message)
    }

    /// 404: no such model.
    #[must_use]
    pub fn unknown_model(got: &str, served: &[&str]) -> ApiError {
        ApiError {
            param: Some("model".into()),
            ..ApiError::client(
                StatusCode::NOT_FOUND,
                format!("the model {got:?} does not exist here, expected one of: {}", served.join(", ")),
                Some("model_not_found"),
            )
        }
    }

    /// 429: too many requests at once.
    #[must_use]
    pub fn busy(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::TOO_MANY_REQUESTS,
            kind: "rate_limit_error",
            message: message.into(),
            param: None,
            code: Some("rate_limit_exceeded"),
        }
    }

    fn server(status: StatusCode, code: &'static str, message: String) -> ApiError {
        ApiError { status, kind: "server_error", message, param: None, code: Some(code) }
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        let message = failure.to_string();
        match failure.kind {
            FailureKind::Invalid => ApiError::invalid(message),
            FailureKind::Busy => ApiError::busy(message),
            FailureKind::Unavailable => {
                ApiError::server(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            }
            FailureKind::Stage => ApiError::server(StatusCode::BAD_GATEWAY, "stage_failed", message),
            FailureKind::Compute => {
                ApiError::server(StatusCode::INTERNAL_SERVER_ERROR, "compute_failed", message)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body())).into_response()
    }
}
