//! Being written.

/// Filters of a list: names with their values.
#[derive(Debug, Clone, Default)]
pub struct Filters {}
