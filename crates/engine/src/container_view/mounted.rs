//! The file system of a container as its processes see it.
