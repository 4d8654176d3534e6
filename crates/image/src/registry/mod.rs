//! The registry client: pull and push.
