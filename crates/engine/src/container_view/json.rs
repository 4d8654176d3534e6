//! Pieces of JSON that list and inspect share.
