//! what a start needs of this machine: each step is carried out by a start, and only tried by `-t`

use crate::config::{Config, StoreKind};
use crate::log::{self, STREAM};
use crate::net::reactors::Ports;
use crate::server::files::Files;
use crate::server::start::{PORT_PATIENCE, StartError};
use crate::server::{pages, settings};
use crate::store::{self, StoreError};

/// Whether a start with `config` would get what it needs of this machine, asked in the order of the
/// start and told in its words. Nothing is made, and nobody is disturbed, so two things stay
/// unknown: whether a database answers, and whether a port is free.
///
/// # Errors
/// What the start would end with.
pub fn check(config: &Config) -> Result<(), StartError> {
    log::check(&config.log)?;
    refuse(config)?;
    store(config, Intent::Try)?;
    settings::rules(config)?;
    if let Some(tls) = config.core.tls.as_ref().filter(|_| config.monitor.https_port != 0) {
        settings::serving_pages(tls)?;
    }
    let core = &config.core;
    pages::check_port(config)?;
    let route = core.cluster.as_ref();
    let route = route.map(|it| settings::listen(&it.host, it.port, PORT_PATIENCE));
    Ports::check(&settings::listen(&core.host, core.port, PORT_PATIENCE), route.as_ref())?;
    match &config.pid_file {
        Some(path) => Files::check_pid(path).map_err(StartError::PidFile),
        None => Ok(()),
    }
}

/// What to do about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// Carry it out.
    Do,
    /// See whether it could be.
    Try,
}

/// Options that cannot be together.
pub(super) fn refuse(config: &Config) -> Result<(), StartError> {
    match &config.start_error {
        Some(error) => Err(StartError::Refused(error.clone())),
        None => Ok(()),
    }
}

/// What is done about the store before anybody may write to it.
pub(super) fn store(config: &Config, intent: Intent) -> Result<(), StartError> {
    match config.streaming.store {
        StoreKind::Memory => Ok(()),
        StoreKind::File => Ok(directory(config, intent)?),
        StoreKind::Sql => {
            let options = settings::sql_options(config)?;
            if intent == Intent::Try {
                return Ok(());
            }
            for notice in store::sql::prepare(&options, &config.streaming.limits)? {
                ::log::warn!(target: STREAM, "{}", notice.text);
            }
            Ok(())
        }
    }
}

/// A member of a group whose directory cannot be used now says so in its pages, and goes on trying;
/// a server alone ends.
fn directory(config: &Config, intent: Intent) -> Result<(), StoreError> {
    let options = settings::file_options(config);
    let is_alone = config.streaming.ft_group.is_none();
    let prepared = match intent {
        Intent::Do => store::file::prepare(&options),
        Intent::Try => store::file::check(&options),
    };
    match prepared {
        Err(error @ StoreError::Io { .. }) if !is_alone => {
            if intent == Intent::Do {
                ::log::error!(target: STREAM, "{error}");
            }
            Ok(())
        }
        Ok(()) if is_alone && options.root.exists() => store::file::check_rights(&options),
        prepared => prepared,
    }
}
