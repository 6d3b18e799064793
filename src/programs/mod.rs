//! What tools need that start servers: programs with all that they start, ports that are free, the
//! end of a log, a wait that somebody can end.

pub(crate) mod logs;
pub(crate) mod ports;
pub(crate) mod processes;
pub(crate) mod wait;
