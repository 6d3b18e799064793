//! what a start needs of this machine: each step is carried out by a start, and only tried by `-t`

use crate::config::Config;
use crate::log;
use crate::net::reactors::Ports;
use crate::server::files::Files;
use crate::server::start::{PORT_PATIENCE, StartError};
use crate::server::{pages, settings};
use crate::site;

/// Whether a start with `config` would get what it needs of this machine, asked in the order of the
/// start and told in its words. Nothing is made, and nobody is disturbed, so two things stay
/// unknown: whether a database answers, which the answer says, and whether a port is free.
///
/// # Errors
/// What the start would end with.
pub fn check(config: &Config) -> Result<&'static str, StartError> {
    log::check(&config.log)?;
    refuse(config)?;
    let untried = site::of(config)?.check()?;
    settings::rules(config)?;
    if let Some(tls) = config.core.tls.as_ref().filter(|_| config.monitor.https_port != 0) {
        settings::serving_pages(tls)?;
    }
    let core = &config.core;
    pages::check_port(config)?;
    let route = core.cluster.as_ref();
    let route = route.map(|it| settings::listen(&it.host, it.port, PORT_PATIENCE));
    Ports::check(&settings::listen(&core.host, core.port, PORT_PATIENCE), route.as_ref())?;
    if let Some(path) = &config.pid_file {
        Files::check_pid(path).map_err(StartError::PidFile)?;
    }
    Ok(untried)
}

/// Options that cannot be together.
pub(super) fn refuse(config: &Config) -> Result<(), StartError> {
    match &config.start_error {
        Some(error) => Err(StartError::Refused(error.clone())),
        None => Ok(()),
    }
}
