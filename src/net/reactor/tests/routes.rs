//! Two servers that reach each other by a route.

use super::*;
use crate::broker::settings::Cluster;
use crate::net::tls::tests::Authority;
use crate::net::tls::{ClientCertificate, Dialling, Serving};

fn member(name: char, routes: Vec<String>, rules: Rules) -> Reactors<CoreOnly> {
    let tls = rules.dial_tls.is_some();
    let cluster = Cluster {
        name: "c".to_owned(),
        host: "127.0.0.1".to_owned(),
        tls,
        routes,
        ..Cluster::default()
    };
    let broker = broker::Settings {
        server_id: format!("N{}", name.to_string().repeat(55)),
        server_name: name.to_string(),
        cluster: Some(cluster),
        ..broker_settings(2)
    };
    let settings = Settings { client: anywhere(), route: anywhere(), rules };
    let drivers = vec![CoreOnly, CoreOnly];
    Reactors::start(settings, &Arc::new(broker), &LeaseClock::endless(), drivers).unwrap()
}

/// A subscriber at one server hears a publisher at the other, as soon as they know each other.
fn check_route(rules: &Rules, host: &str) {
    let first = member('A', Vec::new(), rules.clone());
    let url = format!("{host}:{}", first.route_address.unwrap().port());
    let second = member('B', vec![url], rules.clone());
    let mut subscriber = connect(first.client_address);
    subscriber.send("SUB a 1\r\n");
    subscriber.sync();
    let mut publisher = connect(second.client_address);
    // The route takes its time; a publish before it is there goes nowhere.
    subscriber.stream.get_ref().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut tries = 0;
    while subscriber.stream.fill_buf().is_err() {
        tries += 1;
        assert!(tries < 500, "no route");
        publisher.send("PUB a 1\r\nx\r\n");
        publisher.sync();
    }
    subscriber.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    subscriber.expect("MSG a 1 1");
    subscriber.expect("x");
    first.stop(PATIENCE);
    second.stop(PATIENCE);
}

#[test]
fn a_route_is_dialled_by_address() {
    check_route(&rules(), "127.0.0.1");
}

#[test]
fn a_route_is_dialled_by_name() {
    check_route(&rules(), "localhost");
}

#[test]
fn a_route_speaks_tls_from_its_first_byte() {
    let authority = Authority::new();
    let files = authority.files("localhost");
    let rules = Rules {
        route_tls: Some(Serving::load(&files, ClientCertificate::Required, PATIENCE).unwrap()),
        dial_tls: Some(Dialling::load(&files, false, PATIENCE).unwrap()),
        dial_tls_name: Some("localhost".to_owned()),
        ..rules()
    };
    check_route(&rules, "127.0.0.1");
}
