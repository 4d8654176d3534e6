//! The verbs, a file for each group.

pub mod attach;
pub mod cp;
pub mod events;
pub mod images;
pub mod inspect;
pub mod lifecycle;
pub mod login;
pub mod look;
pub mod network;
pub mod network_care;
pub mod policy;
pub mod prune;
pub mod ps;
pub mod run;
pub mod stats;
pub mod system;
pub mod transfer;
pub mod usage;
pub mod volume;
