//! Names of images, as far as a client must understand them: which registry
//! an image lives in, and what a name without a tag means.

/// A name in its full form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub domain: String,
    /// `library/busybox`.
    pub path: String,
    /// `latest`; empty when there is none.
    pub tag: String,
    /// `sha256:…`; empty when there is none.
    pub digest: String,
}

impl Reference {
    /// Reads a name as a user writes it. The daemon checks its characters.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (rest, digest) = text.split_once('@').unwrap_or((text, ""));
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((front, tag)) if !tag.contains('/') => (front, tag),
            _ => (rest, ""),
        };
        let is_domain = |d: &str| d.contains(['.', ':']) || d == "localhost";
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) if is_domain(domain) => (domain, path.to_owned()),
            _ => ("docker.io", rest.to_owned()),
        };
        let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
        let path = if domain == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path
        };
        let (domain, tag, digest) = (domain.to_owned(), tag.to_owned(), digest.to_owned());
        Self { domain, path, tag, digest }
    }

    /// With the tag `latest` when neither tag nor digest is named.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_empty() && self.digest.is_empty() {
            self.tag = "latest".to_owned();
        }
        self
    }

    /// `docker.io/library/busybox:latest`.
    #[must_use]
    pub fn full(&self) -> String {
        format!("{}/{}{}", self.domain, self.path, self.suffix())
    }

    /// `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// `busybox`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != "docker.io" {
            return format!("{}/{}", self.domain, self.path);
        }
        self.path.strip_prefix("library/").unwrap_or(&self.path).to_owned()
    }

    fn suffix(&self) -> String {
        let tag = if self.tag.is_empty() { String::new() } else { format!(":{}", self.tag) };
        if self.digest.is_empty() { tag } else { format!("{tag}@{}", self.digest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            ("quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00", "quay.io/a/b@sha256:00"),
            ("docker.io/library/x:1", "docker.io/library/x:1", "x:1"),
        ] {
            let reference = Reference::parse(text).or_latest();
            assert_eq!(reference.full(), full);
            assert_eq!(reference.familiar(), familiar);
        }
    }
}
