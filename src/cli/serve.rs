//! Starts a server, or does what stands beside it on its command line: help, version, signals

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::base::world;
use crate::cli::{Command, Serve};
use crate::config::options::{self, OptionsError, Request};
use crate::config::{Arguments, Config, Program, banner, flags, machine};
use crate::log;
use crate::server::signals;

/// The help text on TLS.
const TLS_HELP: &str = r#"
TLS is configured in the file given with -c, in a block of its own:

    tls {
        cert_file: "server-cert.pem"   # certificate of the server
        key_file:  "server-key.pem"    # its private key
        ca_file:   "ca.pem"            # authorities of clients' certificates
        verify:    true                # clients must show a certificate
        timeout:   2                   # seconds for a handshake
        cipher_suites: [ "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" ]
        curve_preferences: [ "X25519", "CurveP256" ]
    }

The same block in `cluster` is for routes.
"#;

/// Does what the arguments behind the executable's name say.
#[must_use]
pub fn run(program: Program, args: &[OsString], serve: Serve, commands: &[Command]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    match machine::with_world(|world| options::load(program, &args, world)) {
        Ok(Request::Serve(mut config)) => {
            config.arguments = Arguments(args);
            start(*config, serve)
        }
        Ok(request) => beside(program, request, commands),
        Err(OptionsError::Flag(error)) => {
            // Compat: a wrong flag ends with 0; pinned by
            // `wrong_flags_show_the_usage_and_end_well`.
            to_stderr(&error.to_string());
            to_stdout(&usage(program, commands));
            ExitCode::SUCCESS
        }
        Err(error) => fail(program, &error.to_string()),
    }
}

fn beside(program: Program, request: Request, commands: &[Command]) -> ExitCode {
    match request {
        Request::Help => to_stdout(&usage(program, commands)),
        Request::HelpTls => to_stdout(TLS_HELP),
        Request::Version => to_stdout(&format!("{}\n", banner::version(program))),
        Request::Checked(file) => to_stderr(&format!(
            "{}: configuration file {} is valid",
            program.name(),
            file.display()
        )),
        Request::Signal(command) => {
            if let Err(error) = signals::send(program, &command) {
                return fail(program, &error.to_string());
            }
        }
        Request::Serve(_) => unreachable!("the caller starts servers itself"),
    }
    ExitCode::SUCCESS
}

fn start(config: Config, serve: Serve) -> ExitCode {
    // Where it cannot be raised, the server serves as many clients as the limit allows.
    let _ = world::raise_descriptor_limit();
    for warning in &config.warnings {
        to_stderr(warning);
    }
    if let Err(error) = log::configure(config.log.clone()) {
        to_stderr(&format!("{} {error}", log::date_time()));
        return ExitCode::FAILURE;
    }
    log::take_panics();
    let code = serve(config);
    log::flush();
    code
}

fn usage(program: Program, commands: &[Command]) -> String {
    if commands.is_empty() {
        return flags::usage(program);
    }
    let mut text = "stanby: a fault-tolerant NATS Streaming server, made to take the place of \
                    nats-streaming-server\n\n    \
                    stanby [options]                         run a server; its options are below\n"
        .to_owned();
    for command in commands {
        let line = format!("stanby {} --help", command.name);
        text.push_str(&format!("    {line:<40} {}\n", command.help));
    }
    text + &flags::usage(program)
}

fn fail(program: Program, text: &str) -> ExitCode {
    match program {
        Program::Streaming => to_stderr(text),
        Program::Core => to_stderr(&format!("{}: {text}", program.name())),
    }
    ExitCode::FAILURE
}

/// A closed stderr or stdout leaves nobody to tell.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn to_stdout(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
