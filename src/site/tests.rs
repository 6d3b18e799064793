//! One suite, every site: what a server asks of it between its start and its activation.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io;
use std::path::Path;

use super::*;
use crate::base::epoch::Unfenced;
use crate::config::options::{self, Request};
use crate::config::{Program, World};
use crate::election::lease::Attempt;
use crate::store::sql::dialect::Driver;
use crate::store::sql::dsn::Source;
use crate::store::sql::{self, schema};

/// The site that a command line describes.
fn site(line: &str) -> Arc<dyn Site> {
    let world = World {
        read: &|_| Err(io::ErrorKind::NotFound.into()),
        variable: &|_| None,
        secret: &|_| None,
        cores: 3,
    };
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Request::Serve(config) = options::load(Program::Streaming, &args, &world).unwrap() else {
        panic!("{line} starts no server");
    };
    of(&config).unwrap()
}

/// All kinds below a folder, with what people see of them.
fn kinds(folder: &Path) -> [(Arc<dyn Site>, &'static str); 3] {
    let folder = folder.display();
    [
        (site(""), "MEMORY"),
        (site(&format!("-store file -dir {folder}/data")), "FILE"),
        (site(&format!("-store sql -sql_driver sqlite -sql_source {folder}/data.db")), "SQL"),
    ]
}

fn make_database(path: &Path) {
    let source = Source::parse(Driver::Sqlite, &path.to_string_lossy(), &|_| None).unwrap();
    sql::make(&source).unwrap();
    let mut dialect = sql::connect(&source, Duration::from_secs(5)).unwrap();
    schema::init(dialect.as_mut()).unwrap();
}

/// Goal: whatever the kind, a server that is alone comes from its start to an open store by the
/// same calls.
#[test]
fn every_site_leads_from_a_start_to_an_open_store() {
    let folder = tempfile::tempdir().unwrap();
    make_database(&folder.path().join("data.db"));
    for (site, name) in kinds(folder.path()) {
        assert_eq!(site.name(), name);
        site.prepare().unwrap();
        site.survey().unwrap();
        let mut lease = site.lease(Owner { server_id: "one".to_owned(), ..Owner::default() });
        assert_eq!(lease.is_some(), name != "MEMORY", "{name}: whether others could have it");
        let fence: Arc<dyn Fence> = match lease.as_mut().map(|lease| lease.try_take().unwrap()) {
            None => Arc::new(Unfenced),
            Some(Attempt::Won(grant)) => grant.fence,
            Some(Attempt::Held { why, .. }) => panic!("{name}: {why}"),
        };
        let opened = site.open(&fence, Predecessor::Clean).unwrap();
        assert_eq!(opened.shares.len(), 2, "{name}: one for each loop");
        assert_eq!(site.lost_count(), (name == "SQL").then_some(0), "{name}");
        site.end_survey();
    }
}

/// Goal: a check says what a start would end with, and leaves nothing behind.
#[test]
fn a_check_makes_nothing_and_ends_as_a_start_would() {
    let folder = tempfile::tempdir().unwrap();
    for (site, name) in kinds(folder.path()) {
        site.check().unwrap();
        let found = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(found, 0, "{name} makes something");
    }
    std::fs::write(folder.path().join("data"), "").unwrap();
    let [_, (directory, _), _] = kinds(folder.path());
    let checked = directory.check().unwrap_err().to_string();
    assert_eq!(checked, directory.prepare().unwrap_err().to_string());
}
