//! the machine's files, variables and cores, as configuration may ask for them

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::{env, thread};

use crate::base::files;
use crate::config::World;

/// Gives `load` this machine to ask.
pub fn with_world<T>(load: impl FnOnce(&World<'_>) -> T) -> T {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    load(&World {
        read: &|path| files::read_text(path),
        variable: &|name| env::var(name).ok(),
        secret: &|name| env::var_os(name).map(OsString::into_vec),
        cores: u16::try_from(cores).unwrap_or(u16::MAX),
    })
}
