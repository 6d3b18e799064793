//! Words that every room shares; imports nothing of ours.

pub mod certificate;
pub mod channel_limits;
pub mod civil;
pub mod crypto;
pub mod deadlines;
pub mod descriptors;
pub mod epoch;
pub mod files;
pub mod go;
pub mod hash;
pub mod id;
pub mod limits;
pub mod opening;
pub mod origin;
pub mod partition;
pub mod placement;
pub mod planted;
pub mod pulse;
pub mod random;
pub mod record;
pub mod reserve;
pub mod sequence_map;
pub mod subject;
pub mod time;
pub mod user_info;
pub mod world;
