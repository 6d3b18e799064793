//! Any bytes as a configuration file: an error with a text, or a configuration; never a panic.
#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stanby::config::options;
use stanby::config::{Program, World};

fuzz_target!(|bytes: &[u8]| {
    let world = World {
        read: &|path| match path == Path::new("f.conf") {
            true => Ok(bytes.to_vec()),
            false => Err(io::Error::from_raw_os_error(2)),
        },
        variable: &|name| (name.len() < 4).then(|| name.repeat(2)),
        secret: &|_| None,
        cores: 2,
    };
    let args = ["-c".to_owned(), "f.conf".to_owned()];
    for program in [Program::Streaming, Program::Core] {
        let _ = options::load(program, &args, &world);
    }
});
