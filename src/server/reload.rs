//! SIGHUP: what of the configuration can change while the server runs

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::reload::{self, Changes, Ports};
use crate::config::{Config, machine};
use crate::log::{CORE, STREAM};
use crate::net::Control;
use crate::server::files::Files;
use crate::server::{Server, settings};

impl Server {
    /// Reads the configuration anew; if anything of it cannot be taken over, nothing is.
    pub(super) fn reload(&mut self) {
        if self.found.upstream.is_some() {
            return self.reload_upstream();
        }
        let arguments = self.config.arguments.clone();
        let ports = Ports {
            client: self.found.client_port,
            route: self.found.route_port.unwrap_or(0),
            monitor: self.pages.monitor_port(),
        };
        let result =
            machine::with_world(|world| reload::reload(&self.config, ports, &arguments.0, world));
        let applied = result.and_then(|(config, changes)| self.apply(config, &changes));
        match applied {
            Ok(()) => log::info!(target: CORE, "{}", reload::RELOADED),
            Err(text) => {
                let program = self.config.program.name();
                if self.is_streaming() {
                    log::error!(target: STREAM, "Reload: {text}");
                } else {
                    log::error!(target: CORE, "Failed to reload server configuration: {text}");
                }
                log::debug!(target: CORE, "{program} goes on with the former configuration");
            }
        }
    }

    /// Of a streaming server over an external one only who it is there can change: the next login
    /// is as the files of credentials say now.
    fn reload_upstream(&mut self) {
        let text = "Reload supported only for embedded NATS Server's configuration";
        log::warn!(target: STREAM, "{text}");
        match settings::upstream(&self.config) {
            Ok(found) if found != self.found.upstream => {
                self.found.upstream = found;
                let broker = Arc::new(settings::broker(&self.config, &self.found));
                if let Some(reactors) = &self.reactors {
                    reactors.tell_all(|| Control::Settings(Arc::clone(&broker)));
                }
                log::info!(target: STREAM, "Reloaded the credentials for the external NATS Server");
            }
            Ok(_) => (),
            Err(text) => log::error!(target: STREAM, "Reload: {text}"),
        }
    }

    /// How many clients are closed by a lower limit.
    fn clients_beyond(&self, config: &Config) -> u64 {
        let count = self.found.counters.clients.load(Ordering::Relaxed);
        let max = config.core.connections_max.filter(|max| *max != 0);
        max.map_or(0, |max| count.saturating_sub(max))
    }

    fn apply(&mut self, config: Config, changes: &Changes) -> Result<(), String> {
        let rules = settings::rules(&config).map_err(|error| error.to_string())?;
        let of_pages = config.core.tls.as_ref().map(settings::serving_pages).transpose();
        let of_pages = of_pages.map_err(|error| error.to_string())?;
        let log = changes.log.then(|| crate::log::prepare(config.log.clone())).transpose();
        let mut log = log.map_err(|error| error.to_string())?;
        for warning in &config.warnings {
            log::warn!(target: STREAM, "{warning}");
        }
        // Whoever reads these lines may rely on what they say; but as with the reference, a log
        // that is left has them, and the new one the last line.
        if self.config.log.has_place_of(&config.log)
            && let Some(log) = log.take()
        {
            log.begin();
        }
        let surplus = self.clients_beyond(&config);
        for line in &changes.lines {
            self.move_files(&config, line);
            if surplus != 0 && line.starts_with(reload::CONNECTIONS_MAX) {
                let text = format!("Closed {surplus} connections to fall within max_connections");
                log::info!(target: CORE, "{text}");
            }
            if line == reload::ROUTES_UNVERIFIED {
                log::warn!(target: CORE, "{line}");
            } else {
                log::info!(target: CORE, "{line}");
            }
        }
        if let Some(log) = log {
            log.begin();
        }
        let broker = Arc::new(settings::broker(&config, &self.found));
        if let Some(reactors) = &self.reactors {
            reactors.reload(rules);
            reactors.tell_all(|| Control::Settings(Arc::clone(&broker)));
        }
        if let (Some(monitor), Some(tls)) = (&self.monitor, of_pages) {
            monitor.set_tls(tls.server_config());
        }
        self.pages.set_core(&config, &self.found);
        self.config = Arc::new(config);
        Ok(())
    }
    /// Leaves the files of this process where they are to be from now on, before that is said.
    fn move_files(&mut self, config: &Config, line: &str) {
        if let (true, Some(path)) = (line.starts_with(reload::PID_FILE), &config.pid_file)
            && let Err(error) = Files::write_pid(path)
        {
            log::error!(target: CORE, "Failed to write pidfile: {error}");
        }
        if line.starts_with(reload::PORTS_FILE_DIR) {
            self.files.remove();
            let Some(folder) = &config.ports_file_dir else { return };
            if let Err(error) = self.files.write_ports(folder) {
                log::error!(target: CORE, "Error writing ports file {error}");
            }
        }
    }
}
