//! What prost makes of `proto/*.proto` at build time: `pb` clients and server, `spb` stored.
//!
//! Strings of the reference are `Bytes` here, because it never checks them for
//! UTF-8 (spec: stores, section 3).

/// Messages between streaming clients and the server.
#[allow(missing_docs, reason = "generated; the field names are those of the .proto files")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/pb.rs"));
}

/// Messages that servers store, or exchange with each other.
#[allow(missing_docs, reason = "generated; the field names are those of the .proto files")]
pub mod spb {
    include!(concat!(env!("OUT_DIR"), "/spb.rs"));
}
