//! One call: a connection of its own, a POST, an answer.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::discover::Address;
use crate::error::CallError;

/// What plugins speak.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// How long a plugin may take: it may have to ask others in its turn.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer that is read.
const LONGEST: usize = 1 << 20;

/// The refusal of a plugin.
#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(rename = "Err", default)]
    err: String,
}

/// Calls a method with a JSON body.
pub(crate) async fn post(
    address: &Address,
    method: &str,
    body: Vec<u8>,
) -> Result<Bytes, CallError> {
    let talk = async {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|source| {
                    CallError::Unreachable { address: path.display().to_string(), source }
                })?;
                exchange(stream, method, body).await
            }
            Address::Tcp(place) => {
                let stream = TcpStream::connect(place).await.map_err(|source| {
                    CallError::Unreachable { address: place.to_string(), source }
                })?;
                exchange(stream, method, body).await
            }
        }
    };
    tokio::time::timeout(LIMIT, talk).await.unwrap_or(Err(CallError::TimedOut(LIMIT)))
}

async fn exchange<S>(stream: S, method: &str, body: Vec<u8>) -> Result<Bytes, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the exchange, since the sender goes then.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to a plugin broke");
        }
    });
    let request = Request::post(format!("/{method}"))
        .header(header::HOST, "plugin")
        .header(header::ACCEPT, MEDIA_TYPE)
        .header(header::CONTENT_TYPE, MEDIA_TYPE)
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| CallError::Refused(format!("{method:?} is no method: {e}")))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), LONGEST).collect().await;
    let answer = answer.map_err(|e| match e.downcast::<hyper::Error>() {
        Ok(e) => CallError::Http(*e),
        Err(_) => CallError::TooLong(LONGEST),
    })?;
    judge(status, answer.to_bytes())
}

/// The answer, unless it is a refusal. Plugins refuse by status, by the field
/// `Err`, or both.
fn judge(status: StatusCode, answer: Bytes) -> Result<Bytes, CallError> {
    if status == StatusCode::NOT_FOUND {
        return Err(CallError::Unknown);
    }
    let refusal = serde_json::from_slice::<Refusal>(&answer).map(|r| r.err).unwrap_or_default();
    if !refusal.is_empty() {
        return Err(CallError::Refused(refusal));
    }
    if !status.is_success() {
        let text = String::from_utf8_lossy(&answer).trim().to_owned();
        return Err(CallError::Refused(format!("{status} {text}").trim().to_owned()));
    }
    // Methods that say nothing answer with nothing.
    Ok(if answer.iter().all(u8::is_ascii_whitespace) { Bytes::from_static(b"{}") } else { answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_recognised() {
        let judged = |status: u16, text: &'static str| {
            judge(StatusCode::from_u16(status).unwrap(), Bytes::from_static(text.as_bytes()))
                .map_err(|e| e.to_string())
        };
        assert_eq!(judged(200, r#"{"A":1}"#).unwrap(), r#"{"A":1}"#);
        assert_eq!(judged(200, " \n").unwrap(), "{}");
        assert_eq!(judged(200, r#"{"Err":""}"#).unwrap(), r#"{"Err":""}"#);
        assert_eq!(judged(200, r#"{"Err":"no room"}"#).unwrap_err(), "no room");
        assert_eq!(judged(500, r#"{"Err":"no room"}"#).unwrap_err(), "no room");
        assert_eq!(judged(500, "oops").unwrap_err(), "500 Internal Server Error oops");
        assert_eq!(judged(404, "").unwrap_err(), "it does not know this method");
    }
}
