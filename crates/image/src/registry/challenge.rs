//! The challenges of `WWW-Authenticate`, as far as registries use them.

use http::header::{HeaderMap, WWW_AUTHENTICATE};

use super::error::Code;

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

/// The challenge to meet: a token where one is possible.
pub(super) fn preferred(challenges: &[Challenge]) -> Option<&Challenge> {
    challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. })).or_else(|| challenges.first())
}

/// The challenges of `WWW-Authenticate` that are understood.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for_each_challenge(headers, |scheme, param| {
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = param("realm")
        {
            found.push(Challenge::Bearer { realm, service: param("service") });
        }
    });
    found
}

/// What a bearer challenge says is wrong with the token (RFC 6750, section 3.1).
pub(super) fn challenge_error(headers: &HeaderMap) -> Option<Code> {
    let mut found = None;
    for_each_challenge(headers, |scheme, param| {
        if !scheme.eq_ignore_ascii_case("bearer") {
            return;
        }
        let (code, message) = match param("error").as_deref() {
            Some("invalid_token") => ("UNAUTHORIZED", "authentication required"),
            Some("insufficient_scope") => ("DENIED", "requested access to the resource is denied"),
            _ => return,
        };
        found = Some(Code { code: code.into(), message: message.into() });
    });
    found
}

fn for_each_challenge(
    headers: &HeaderMap,
    mut each: impl FnMut(&str, &dyn Fn(&str) -> Option<String>),
) {
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
            each(challenge.scheme, &|name| {
                challenge
                    .params
                    .iter()
                    .find(|(n, _)| n.eq_ignore_ascii_case(name))
                    .map(|(_, v)| v.to_unescaped())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|v| (WWW_AUTHENTICATE, HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn bearer_is_preferred_and_nonsense_is_skipped() {
        let found = challenges(&headers(&[
            "Basic realm=\"x\"",
            "Bearer realm=\"https://auth.example/token\",service=\"reg, istry\",scope=\"a:b:c\"",
            "\"x,=",
            "Negotiate",
        ]));
        assert_eq!(
            preferred(&found),
            Some(&Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("reg, istry".into())
            })
        );
        assert!(challenges(&headers(&["Bearer", "Bearer x=\"", ""])).is_empty());
    }

    #[test]
    fn a_refused_scope_is_denied() {
        let code = challenge_error(&headers(&[
            "Bearer realm=\"https://a/\",error=\"insufficient_scope\"",
        ]));
        assert_eq!(
            code.map(|c| c.to_string()).as_deref(),
            Some("denied: requested access to the resource is denied")
        );
    }
}
