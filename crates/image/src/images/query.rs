//! Questions about images.

use std::collections::BTreeMap;
use std::sync::Arc;

use sampan_types::{ImageId, Timestamp};

use super::state::View;
use super::{HistoryItem, ImageRecord, Images, ListFilters};
use crate::{Digest, ImageError, Reference};

/// Fewer digits would match by accident.
const SHORTEST_ID: usize = 1;

impl View {
    /// The image that a reference, an id or the beginning of an id names.
    pub(super) fn resolve(&self, name: &str) -> Result<ImageId, ImageError> {
        let id = if name.starts_with("sha256:") {
            name.parse().ok()
        } else {
            format!("sha256:{name}").parse().ok()
        };
        if let Some(id) = id {
            let found = self.images.contains_key(&id);
            return if found { Ok(id) } else { Err(ImageError::NotFound(name.to_owned())) };
        }
        let reference = name.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(id) = self.named(&reference.clone().or_latest())
        {
            return Ok(id);
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        if digits.len() >= SHORTEST_ID && sampan_types::looks_like_id_prefix(digits) {
            let mut found = self.images.keys().filter(|id| id.hex().starts_with(digits));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok(id.clone()),
                (Some(_), Some(_)) => return Err(ImageError::Ambiguous(name.to_owned())),
                _ => {}
            }
        }
        Err(ImageError::NotFound(reference?.or_latest().familiar()))
    }

    /// The image with this name.
    fn named(&self, reference: &Reference) -> Option<ImageId> {
        match reference.digest() {
            Some(digest) => {
                let plain = reference.with_digest(digest.clone());
                let by_name = self.stored.digests.get(&plain).cloned();
                // An image's own id does as a digest too, as in Docker.
                by_name.or_else(|| Some(ImageId::from(digest)).filter(|i| self.has(i, reference)))
            }
            None => self.stored.tags.get(reference).cloned(),
        }
    }

    /// Whether the image exists and has a name in the reference's repository.
    fn has(&self, id: &ImageId, reference: &Reference) -> bool {
        self.images.get(id).is_some_and(|r| r.tags.iter().any(|tag| tag.same_repository(reference)))
    }

    fn record(&self, id: &ImageId) -> Result<&Arc<ImageRecord>, ImageError> {
        self.images.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// Newest first.
    fn sorted(&self) -> Vec<Arc<ImageRecord>> {
        let mut all: Vec<_> = self.images.values().cloned().collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        all
    }
}

impl Images {
    /// The image that a reference, an id or the beginning of an id names.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], or that the name is
    /// not a reference.
    pub fn resolve(&self, name: &str) -> Result<ImageId, ImageError> {
        self.0.state.view().resolve(name)
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn inspect(&self, id: &ImageId) -> Result<Arc<ImageRecord>, ImageError> {
        self.0.state.view().record(id).cloned()
    }

    /// All images, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ImageRecord>> {
        self.0.state.view().sorted()
    }

    /// The images that pass the filters, newest first. With the filter
    /// `references`, records have only the names that match.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when an image named by `before` or `since`
    /// doesn't exist; [`ImageError::Invalid`] for a wrong pattern.
    pub fn list_filtered(
        &self,
        filters: &ListFilters,
    ) -> Result<Vec<Arc<ImageRecord>>, ImageError> {
        let view = self.0.state.view();
        let times = |names: &[String]| -> Result<Vec<Timestamp>, ImageError> {
            names.iter().map(|n| Ok(view.record(&view.resolve(n)?)?.created)).collect()
        };
        let (before, since) = (times(&filters.before)?, times(&filters.since)?);
        let patterns: Vec<Pattern> =
            filters.references.iter().map(|p| Pattern::parse(p)).collect::<Result<_, _>>()?;
        let mut passed = Vec::new();
        for record in view.sorted() {
            let nameless = record.tags.is_empty() && record.digests.is_empty();
            let timely = before.iter().all(|t| record.created < *t)
                && since.iter().all(|t| record.created > *t)
                && filters.until.is_none_or(|t| record.created < t);
            let dangling = match filters.dangling {
                Some(true) => record.tags.is_empty(),
                Some(false) => !nameless,
                None => true,
            };
            let hidden = !filters.all && nameless && view.stored.has_children(&record.id);
            if !timely || !dangling || hidden || !has_labels(&record, &filters.labels) {
                continue;
            }
            if patterns.is_empty() {
                passed.push(record);
                continue;
            }
            let matching = |names: &[Reference]| -> Vec<Reference> {
                names.iter().filter(|r| patterns.iter().any(|p| p.matches(r))).cloned().collect()
            };
            let (tags, digests) = (matching(&record.tags), matching(&record.digests));
            if !tags.is_empty() || !digests.is_empty() {
                passed.push(Arc::new(ImageRecord { tags, digests, ..ImageRecord::clone(&record) }));
            }
        }
        Ok(passed)
    }

    /// How an image came about, newest step first.
    ///
    /// # Errors
    /// [`ImageError::NotFound`].
    pub fn history(&self, id: &ImageId) -> Result<Vec<HistoryItem>, ImageError> {
        let view = self.0.state.view();
        let record = view.record(id)?;
        let mut layers = record.config.rootfs.diff_ids.iter();
        let mut items: Vec<HistoryItem> = Vec::new();
        for step in record.config.history.iter().flatten() {
            let layer = if step.empty_layer { None } else { layers.next() };
            let created = step.created.as_deref().and_then(|t| Timestamp::parse(t).ok());
            items.push(HistoryItem {
                id: None,
                created: created.unwrap_or(Timestamp::NEVER),
                created_by: step.created_by.clone().unwrap_or_default(),
                size: layer.and_then(|l| self.0.layers.info(l)).map_or(0, |i| i.size),
                comment: step.comment.clone().unwrap_or_default(),
                tags: Vec::new(),
            });
        }
        items.reverse();
        let mut current = Some(record);
        for item in &mut items {
            let Some(image) = current else { break };
            item.id = Some(image.id.clone());
            item.tags.clone_from(&image.tags);
            current = image.parent.as_ref().and_then(|p| view.images.get(p));
        }
        Ok(items)
    }

    /// Bytes of an image's layers that other images have too.
    #[must_use]
    pub fn shared_size(&self, id: &ImageId) -> u64 {
        let view = self.0.state.view();
        let Ok(record) = view.record(id) else { return 0 };
        let mut own: Vec<&Digest> = record.config.rootfs.diff_ids.iter().collect();
        own.sort_unstable();
        own.dedup();
        let others = view.images.values().filter(|r| r.id != *id);
        let shared: std::collections::HashSet<&Digest> =
            others.flat_map(|r| r.config.rootfs.diff_ids.iter()).collect();
        own.into_iter()
            .filter(|d| shared.contains(d))
            .filter_map(|d| self.0.layers.info(d))
            .map(|i| i.size)
            .sum()
    }

    /// Bytes of all layers, each counted once.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        let view = self.0.state.view();
        let layers: BTreeMap<&Digest, ()> = view
            .images
            .values()
            .flat_map(|r| r.config.rootfs.diff_ids.iter())
            .map(|d| (d, ()))
            .collect();
        layers.keys().filter_map(|d| self.0.layers.info(d)).map(|i| i.size).sum()
    }
}

/// Whether the image has all these labels (`key` or `key=value`).
pub(super) fn has_labels(record: &ImageRecord, wanted: &[String]) -> bool {
    let labels = record.config.config.as_ref().and_then(|c| c.labels.as_ref());
    wanted.iter().all(|want| {
        let (key, value) =
            want.split_once('=').map_or((want.as_str(), None), |(k, v)| (k, Some(v)));
        labels.and_then(|l| l.get(key)).is_some_and(|v| value.is_none_or(|want| want == v))
    })
}

/// A pattern as Go's `path.Match` has it.
struct Pattern(Vec<Part>);

enum Part {
    One(char),
    Any,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, ImageError> {
        let wrong = || ImageError::Invalid(format!("invalid reference filter {text:?}"));
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::AnyRun,
                '?' => Part::Any,
                '\\' => Part::One(chars.next().ok_or_else(wrong)?),
                '[' => {
                    let negated = chars.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let mut bound = || match chars.next() {
                            Some('\\') => chars.next(),
                            other => other,
                        };
                        let low = match bound() {
                            Some(']') if !ranges.is_empty() => break,
                            Some('-' | ']') | None => return Err(wrong()),
                            Some(low) => low,
                        };
                        let high = if chars.next_if_eq(&'-').is_some() {
                            chars.next().ok_or_else(wrong)?
                        } else {
                            low
                        };
                        ranges.push((low, high));
                    }
                    Part::Class { negated, ranges }
                }
                other => Part::One(other),
            });
        }
        Ok(Self(parts))
    }

    /// The familiar form, or the familiar name alone.
    fn matches(&self, reference: &Reference) -> bool {
        self.is(&reference.familiar()) || self.is(&reference.familiar_name())
    }

    fn is(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // Which positions of the text the parts so far can end at.
        let mut ends = vec![false; text.len() + 1];
        ends[0] = true;
        for part in &self.0 {
            let mut next = vec![false; text.len() + 1];
            for at in (0..ends.len()).filter(|i| ends[*i]) {
                if let Part::AnyRun = part {
                    next[at] = true;
                    for (i, c) in text.iter().enumerate().skip(at) {
                        if *c == '/' {
                            break;
                        }
                        next[i + 1] = true;
                    }
                } else if text.get(at).is_some_and(|c| part.is(*c)) {
                    next[at + 1] = true;
                }
            }
            ends = next;
        }
        ends[text.len()]
    }
}

impl Part {
    fn is(&self, c: char) -> bool {
        match self {
            Self::One(one) => *one == c,
            Self::Any | Self::AnyRun => c != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_gos() {
        let is = |pattern: &str, name: &str| {
            Pattern::parse(pattern).unwrap().matches(&name.parse().unwrap())
        };
        for (pattern, name) in [
            ("busybox", "busybox:1"),
            ("busybox:*", "busybox:1.36"),
            ("busy*", "busybox"),
            ("*/app", "user/app:x"),
            ("b?syb[a-z]x:[^2]", "busybox:1"),
            ("localhost:5000/*", "localhost:5000/a"),
        ] {
            assert!(is(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("busy", "busybox"), ("*", "user/app"), ("busybox:2", "busybox:1")]
        {
            assert!(!is(pattern, name), "{pattern} {name}");
        }
        for wrong in ["[", "a[]", "a\\", "[a-"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
