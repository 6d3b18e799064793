//! Starts a server, or does what stands beside it on its command line: help, version, signals

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use zeroize::Zeroize as _;

use crate::base::world;
use crate::cli::{Command, Serve, control};
use crate::config::draft::KEY_VARIABLE;
use crate::config::flags::FlagError;
use crate::config::nearest::nearest;
use crate::config::options::{self, OptionsError, Request};
use crate::config::{Arguments, Config, Program, banner, flags, machine};
use crate::log::{self, STREAM};
use crate::server::{preparation, signals};

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
pub fn run(program: Program, args: Vec<OsString>, serve: Serve, commands: &[Command]) -> ExitCode {
    let args: Vec<String> = args.into_iter().map(text).collect();
    match machine::with_world(|world| options::load(program, &args, world)) {
        Ok(Request::Serve(mut config)) => {
            let is_covered = cover_keys(&config, &args);
            if let Err(error) = is_covered {
                config.warnings.push(format!(
                    "the encryption key stays where `ps e` shows it to this user and root: {error}"
                ));
            }
            config.arguments = Arguments::without_keys(program, args);
            config.notify_socket = env::var_os("NOTIFY_SOCKET").map(PathBuf::from);
            config.control_folders = control::folders();
            start(*config, serve)
        }
        Ok(request) => beside(program, request, commands),
        Err(OptionsError::Flag(error)) => {
            // Compat: a wrong flag ends with 0; pinned by
            // `a_wrong_flag_ends_with_its_line_the_nearest_one_and_the_go_servers_code`. Unlike the
            // reference, whose line scrolls away above the usage.
            to_stdout(&usage(program, commands));
            to_stderr(&format!("{error}{}", flag_hint(program, &error)));
            ExitCode::SUCCESS
        }
        Err(OptionsError::Command(word)) => {
            let hint = command_hint(&word, &args, commands);
            fail(program, &format!("{}{hint}", OptionsError::Command(word)))
        }
        Err(error) => fail(program, &error.to_string()),
    }
}

/// The text of an argument, which is written over where it was: it may be a key.
fn text(arg: OsString) -> String {
    let text = arg.to_string_lossy().into_owned();
    arg.into_encoded_bytes().zeroize();
    text
}

/// Once the key is known, nobody else need see it in the arguments and the environment of this
/// process.
fn cover_keys(config: &Config, args: &[String]) -> io::Result<()> {
    if config.streaming.encryption.is_none() {
        return Ok(());
    }
    world::cover_start(args.len(), &flags::keys(config.program, args), KEY_VARIABLE)
}

fn flag_hint(program: Program, error: &FlagError) -> String {
    let FlagError::Unknown(name) = error else { return String::new() };
    match flags::nearest_flag(program, name) {
        Some(known) => format!(" (did you mean -{known}?)"),
        None => String::new(),
    }
}

fn command_hint(word: &str, args: &[String], commands: &[Command]) -> String {
    let place = args.iter().position(|arg| arg == word);
    let before = place.and_then(|place| args.get(place.checked_sub(1)?));
    if let (Some(flag), Ok(_)) = (before, word.parse::<bool>())
        && flag.starts_with('-')
    {
        return format!(" (did you mean {flag}={word}?)");
    }
    let known = commands.iter().map(|command| command.name).chain(["help", "version"]);
    if known.clone().any(|command| command == word) {
        return format!(" (a command comes first: stanby {word} …)");
    }
    match nearest(word, known) {
        Some(command) => format!(" (did you mean {command}?)"),
        None => String::new(),
    }
}

fn beside(program: Program, request: Request, commands: &[Command]) -> ExitCode {
    match request {
        Request::Help => to_stdout(&usage(program, commands)),
        Request::HelpTls => to_stdout(TLS_HELP),
        Request::Version => to_stdout(&format!("{}\n", banner::version(program))),
        Request::Check { file, config } => return check(&file, &config),
        Request::Signal(command) => {
            if let Err(error) = signals::send(program, &command) {
                return fail(program, &error.to_string());
            }
        }
        Request::Serve(_) => unreachable!("the caller starts servers itself"),
    }
    ExitCode::SUCCESS
}

/// `-t`: whether a server could start with this file, on this machine.
fn check(file: &Path, config: &Config) -> ExitCode {
    let program = config.program;
    for warning in &config.warnings {
        to_stderr(warning);
    }
    let untried = match preparation::check(config) {
        Ok(untried) => untried,
        Err(error) => return fail(program, &error.to_string()),
    };
    let count = match config.warnings.len() {
        0 => String::new(),
        1 => ", with 1 warning".to_owned(),
        count => format!(", with {count} warnings"),
    };
    let file = file.display();
    to_stderr(&format!("{}: configuration file {file} is valid{count}{untried}", program.name()));
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
    // Who reads the log alone must see them too.
    let settings = &config.log;
    if settings.file.is_some() || settings.syslog || settings.remote_syslog.is_some() {
        for warning in &config.warnings {
            ::log::warn!(target: STREAM, "{warning}");
        }
    }
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
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
