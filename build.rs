//! Makes the protobuf messages of `proto/` into Rust types; needs no installed compiler.

use std::error::Error;

const FILES: [&str; 2] = ["proto/protocol.proto", "proto/server.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
