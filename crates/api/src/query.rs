//! Query parameters, read as dockerd reads them.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query as AxumQuery};
use http::request::Parts;
use sampan_types::Timestamp;

use crate::error::ApiError;

/// The parameters of a request, in the order in which they were given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        AxumQuery::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map(|q| Self(q.0))
            .map_err(|e| ApiError::invalid(format!("invalid query: {e}")))
    }
}

impl Query {
    /// The first value of `name`, also when it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of `name`.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// The first value of `name` when it is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// Docker's truth: everything but nothing, `0`, `no`, `false` and `none`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// As [`Query::flag`], with `default` where nothing is given.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            None => default,
            Some(v) => {
                let v = v.trim().to_ascii_lowercase();
                !matches!(v.as_str(), "" | "0" | "no" | "false" | "none")
            }
        }
    }

    /// A number, when there is one.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    ApiError::invalid(format!(
                        "invalid value {v:?} of parameter {name}: a number expected"
                    ))
                })
            })
            .transpose()
    }

    /// A number that must be there.
    pub(crate) fn required_number<T: FromStr>(&self, name: &str) -> Result<T, ApiError> {
        self.number(name)?.ok_or_else(|| {
            ApiError::invalid(format!("parameter {name} is missing: a number expected"))
        })
    }

    /// A point in time; none where it is missing, empty or zero.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        self.text(name)
            .map(|v| {
                Timestamp::parse(v).map_err(|e| {
                    ApiError::invalid(format!("invalid value of parameter {name}: {e}"))
                })
            })
            .transpose()
            .map(|t| t.filter(|t| !t.is_never()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Query {
        Query(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn dockers_truth() {
        for no in ["", "0", "no", "False", "none", " false "] {
            assert!(!query(&[("a", no)]).flag("a"), "{no}");
        }
        for yes in ["1", "true", "True", "yes", "x"] {
            assert!(query(&[("a", yes)]).flag("a"), "{yes}");
        }
        assert!(!query(&[]).flag("a"));
        assert!(query(&[]).flag_or("a", true));
    }

    #[test]
    fn numbers_and_times() {
        let q = query(&[("n", "-3"), ("x", "abc"), ("e", ""), ("t", "1.5"), ("z", "0")]);
        assert_eq!(q.number::<i64>("n").unwrap(), Some(-3));
        assert!(q.number::<i64>("x").is_err());
        assert_eq!(q.number::<i64>("e").unwrap(), None);
        assert!(q.required_number::<i64>("e").is_err());
        assert_eq!(q.time("t").unwrap(), Some(Timestamp::from_nanos(1_500_000_000)));
        assert_eq!(q.time("z").unwrap(), None);
        assert!(q.time("x").is_err());
    }
}
