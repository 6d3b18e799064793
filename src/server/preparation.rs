//! what a start needs of this machine: each step is carried out by a start, and only tried by `-t`

use crate::config::{self, Config};
use crate::log;
use crate::net::reactors::Ports;
use crate::server::files::Files;
use crate::server::start::{PORT_PATIENCE, StartError};
use crate::server::{pages, settings};
use crate::site;

/// Whether a start with `config` would get what it needs of this machine, asked in the order of the
/// start and told in its words, with the place in the file that asks for it behind them. Nothing is
/// made, and nobody is disturbed, so two things stay unknown: whether a database answers, which the
/// answer says, and whether a port is free.
///
/// # Errors
/// What the start would end with.
pub fn check(config: &Config) -> Result<&'static str, String> {
    let core = &config.core;
    let said = |options, error: StartError| format!("{error}{}", config.places.behind(options));
    let log =
        if config.log.file.is_some() { "top.logfile" } else { "top.remote_syslog top.syslog" };
    log::check(&config.log).map_err(|error| said(log, error.into()))?;
    // Its text has its place.
    refuse(config).map_err(|error| error.to_string())?;
    let untried = site::of(config).and_then(|site| site.check());
    let untried = untried.map_err(|error| said(config.data_options(), error.into()))?;
    if let Some(tls) = &core.tls {
        settings::serving(tls).map_err(|error| said("top.tls", error.into()))?;
    }
    settings::rules(config).map_err(|error| said("cluster.tls", error.into()))?;
    if let Some(tls) = core.tls.as_ref().filter(|_| config.monitor.https_port != 0) {
        settings::serving_pages(tls).map_err(|error| said("top.tls", error.into()))?;
    }
    pages::check_port(config).map_err(|error| said(config::MONITOR_PORTS, error))?;
    if config.streaming.external.is_some() {
        let found = settings::upstream(config).map_err(StartError::Upstream);
        found.map_err(|error| said("streaming.ns", error))?;
        return check_pid(config).map(|()| untried);
    }
    let client = settings::listen(&core.host, core.port, PORT_PATIENCE);
    Ports::check(&client, None).map_err(|error| said(config::CLIENT_PORT, error.into()))?;
    if let Some(it) = &core.cluster {
        let route = settings::listen(&it.host, it.port, PORT_PATIENCE);
        let checked = Ports::check(&client, Some(&route));
        checked.map_err(|error| said(config::ROUTE_PORT, error.into()))?;
    }
    check_pid(config).map(|()| untried)
}

fn check_pid(config: &Config) -> Result<(), String> {
    let Some(path) = &config.pid_file else { return Ok(()) };
    let checked = Files::check_pid(path).map_err(StartError::PidFile);
    checked.map_err(|error| format!("{error}{}", config.places.behind("top.pid_file")))
}

/// Options that cannot be together.
pub(super) fn refuse(config: &Config) -> Result<(), StartError> {
    match &config.start_error {
        Some(error) => Err(StartError::Refused(error.clone())),
        None => Ok(()),
    }
}
