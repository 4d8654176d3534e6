//! Network namespaces of sandboxes.
