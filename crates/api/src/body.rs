//! JSON bodies, read as dockerd reads them.

use std::pin::Pin;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::error::ApiError;
use crate::lenient;

/// The longest JSON body that is read, in bytes. A body that creates a
/// container takes some kilobytes; with long lists of labels and variables
/// some hundreds.
pub const MAX_JSON_BODY: usize = 8 << 20;

/// A JSON body. None when there is no body, which dockerd takes for an empty one.
pub(crate) struct Json<T>(pub(crate) Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let text = read(body).await?;
        check_content_type(&parts.headers, text.is_empty())?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        decode(&text).map(|t| Self(Some(t)))
    }
}

/// A whole body as it is, where JSON has a decoder of its own.
pub(crate) struct JsonText(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let text = read(body).await?;
        check_content_type(&parts.headers, text.is_empty())?;
        Ok(Self(text))
    }
}

/// Reads a body that is no longer than [`MAX_JSON_BODY`].
pub(crate) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_JSON_BODY).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::invalid(format!("the request body is longer than {MAX_JSON_BODY} bytes")))
        }
        Err(e) => Err(ApiError::invalid(format!("cannot read the request body: {e}"))),
    }
}

/// Decodes a body, with dockerd's words when it is wrong.
pub(crate) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    lenient::from_slice(text).map_err(|e| ApiError::invalid(invalid_json(&e)))
}

/// What dockerd says of a body that is not the JSON it expects.
pub(crate) fn invalid_json(error: &serde_json::Error) -> String {
    let message = error.to_string();
    if error.is_eof() && error.column() == 0 {
        return "invalid JSON: got EOF while reading request body".to_owned();
    }
    if message.starts_with("trailing characters") {
        return "unexpected content after JSON".to_owned();
    }
    format!("invalid JSON: {message}")
}

fn check_content_type(headers: &HeaderMap, empty: bool) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return if empty { Ok(()) } else { Err(wrong_type("")) };
    };
    let text = value.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    // Clients put a type on requests without a body, too: docker says text/plain.
    if empty || kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(wrong_type(text))
    }
}

fn wrong_type(text: &str) -> ApiError {
    ApiError::invalid(format!(
        "unsupported Content-Type header ({text}): must be 'application/json'"
    ))
}

/// A body as a reader: archives and images.
pub(crate) type BodyReader = Pin<Box<dyn AsyncRead + Send>>;

/// Reads a body as it comes. A client that disconnects is an error in the
/// reader, not its end.
pub(crate) fn reader(body: Body) -> BodyReader {
    let pieces = TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other);
    Box::pin(StreamReader::new(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_dockerds_words() {
        let message =
            |text: &str| decode::<serde_json::Value>(text.as_bytes()).unwrap_err().message;
        assert_eq!(message("{} {}"), "unexpected content after JSON");
        assert!(message("{").starts_with("invalid JSON: EOF"));
        assert!(message("{a").starts_with("invalid JSON: key must be a string"));
    }

    #[test]
    fn content_types() {
        let check = |kind: Option<&str>, empty| {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            check_content_type(&headers, empty).is_ok()
        };
        assert!(check(Some("application/json"), false));
        assert!(check(Some("application/json; charset=utf-8"), false));
        assert!(check(Some("text/plain"), true));
        assert!(check(None, true));
        assert!(!check(None, false));
        assert!(!check(Some("text/plain"), false));
        assert!(!check(Some("application/jsonx"), false));
    }
}
