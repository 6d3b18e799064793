//! Where commands of this machine reach the server

use super::{error_of, file_config};
use crate::config::{ControlPlace, Program};

/// Goal: the word that the flag takes means the same in a file, where without quotes it is no text.
#[test]
fn off_is_off_for_the_control_socket() {
    let of = |value: &str| file_config(&format!("streaming {{ control_socket: {value} }}"));
    for off in ["off", "'off'", "false"] {
        assert_eq!(of(off).streaming.control, ControlPlace::Nowhere, "{off}");
    }
    assert_eq!(of("/run/a").streaming.control, ControlPlace::At("/run/a".into()));
    let error = error_of(Program::Streaming, "-c f.conf", "streaming { control_socket: on }");
    let said = "f.conf:1:12: control_socket is a path or off; leave it out for the usual folders";
    assert_eq!(error, said);
}
