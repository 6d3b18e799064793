//! The client against scripted peers on the loopback: answers, hang-ups, moves.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a script answers to a few operations only")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};

use bytes::{Buf, BytesMut};

use super::*;
use crate::base::nkey::UserKey;
use crate::wire::{self, Op, Parsed, Side, encoder, op};

/// What a peer does beyond answering well.
#[derive(Clone, Copy, Default)]
struct Script {
    /// Ends, with its listener, when this is published.
    dies_of: Option<&'static str>,
    /// So many connect requests find nobody.
    no_responders: u32,
    /// A ping that was under way at a close is answered before it, by who knows the client no more.
    forgets_at_close: bool,
    /// Speaks TLS only.
    needs_tls: bool,
    /// What somebody on the way puts behind the greeting.
    injected: &'static str,
}

/// One server that speaks just enough for one client at a time.
struct Peer {
    script: Script,
    socket: TcpStream,
    sids: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Starts a peer; gives its address.
fn peer(script: Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::Builder::new()
        .spawn(move || {
            let mut script = script;
            while let Ok((socket, _)) = listener.accept() {
                let mut peer = Peer { script, socket, sids: BTreeMap::new() };
                if peer.serve().is_none() {
                    return;
                }
                script = peer.script;
            }
        })
        .unwrap();
    address
}

impl Peer {
    /// Until the client hangs up; `None` when the script says that the peer ends.
    fn serve(&mut self) -> Option<()> {
        let tls = if self.script.needs_tls { ",\"tls_required\":true" } else { "" };
        let injected = self.script.injected;
        let greeting = format!("INFO {{\"headers\":true{tls}}}\r\n{injected}");
        self.socket.write_all(greeting.as_bytes()).ok();
        let limits = wire::Limits { side: Side::Client, ..wire::Limits::server() };
        let mut input = BytesMut::new();
        let mut chunk = [0; 4096];
        loop {
            let len = self.socket.read(&mut chunk).unwrap_or(0);
            if len == 0 {
                return Some(());
            }
            input.extend_from_slice(&chunk[..len]);
            while let Parsed::Op { op, len } = wire::parse(&input, &limits).unwrap() {
                self.on(&op)?;
                input.advance(len);
            }
        }
    }

    fn on(&mut self, op: &Op<'_>) -> Option<()> {
        match op {
            Op::Ping => self.socket.write_all(b"PONG\r\n").unwrap(),
            Op::Subscribe { subject, sid, .. } => {
                _ = self.sids.insert(subject.to_vec(), sid.to_vec());
            }
            Op::Publish(publish) => self.on_publish(publish)?,
            _ => (),
        }
        Some(())
    }

    fn on_publish(&mut self, publish: &op::Publish<'_>) -> Option<()> {
        let Some(reply) = publish.reply else { return Some(()) };
        let service = String::from_utf8_lossy(publish.subject).into_owned();
        match service.split('.').next().unwrap() {
            "_STAN" if self.script.no_responders > 0 => {
                self.script.no_responders -= 1;
                self.send(reply, Some(16), b"NATS/1.0 503\r\n\r\n");
            }
            "_STAN" => self.send(reply, None, &welcome().encode_to_vec()),
            "pub" => {
                let message = pb::PubMsg::decode(publish.payload).unwrap();
                if self.script.dies_of.is_some_and(|word| message.data == word) {
                    return None;
                }
                let ack = pb::PubAck { guid: message.guid, error: Bytes::new() };
                self.send(reply, None, &ack.encode_to_vec());
            }
            "sub" => self.on_subscribe(reply, publish.payload),
            "close" if self.script.forgets_at_close => {
                let error = Bytes::from_static(b"client has been replaced");
                let inbox = self.sids.iter().find(|(_, sid)| **sid == b"2").unwrap().0.clone();
                self.send(&inbox, None, &pb::PingResponse { error }.encode_to_vec());
                self.send(reply, None, b"");
            }
            _ => self.send(reply, None, b""),
        }
        Some(())
    }

    /// The first message follows the answer in one write.
    fn on_subscribe(&mut self, reply: &[u8], payload: &[u8]) {
        let ask = pb::SubscriptionRequest::decode(payload).unwrap();
        if ask.max_in_flight < 1 {
            let error = Bytes::from_static(b"stan: invalid MaxInflight, should be >= 1");
            let answer = pb::SubscriptionResponse { ack_inbox: Bytes::new(), error };
            return self.send(reply, None, &answer.encode_to_vec());
        }
        let answer = pb::SubscriptionResponse { ack_inbox: "acks".into(), error: Bytes::new() };
        let message = pb::MsgProto {
            sequence: 7,
            subject: ask.subject,
            data: "first".into(),
            ..pb::MsgProto::default()
        };
        let mut out = self.message(reply, None, &answer.encode_to_vec());
        out.extend_from_slice(&self.message(&ask.inbox, None, &message.encode_to_vec()));
        self.socket.write_all(&out).unwrap();
    }

    fn send(&mut self, subject: &[u8], header_len: Option<usize>, payload: &[u8]) {
        let out = self.message(subject, header_len, payload);
        self.socket.write_all(&out).unwrap();
    }

    fn message(&self, subject: &[u8], header_len: Option<usize>, payload: &[u8]) -> BytesMut {
        let mut interests = self.sids.iter();
        let found = interests.find(|(of, _)| crate::base::subject::matches(of, subject));
        let (_, sid) = found.expect("the client listens where it wants its answer");
        let message = op::Publish { subject, reply: None, header_len, payload };
        let mut out = BytesMut::new();
        encoder::encode(&Op::Message { message, sid }, &mut out);
        out
    }
}

fn welcome() -> pb::ConnectResponse {
    pb::ConnectResponse {
        pub_prefix: "pub".into(),
        sub_requests: "sub".into(),
        unsub_requests: "unsub".into(),
        close_requests: "close".into(),
        sub_close_requests: "subclose".into(),
        ..pb::ConnectResponse::default()
    }
}

fn connect(servers: &[&str]) -> Client {
    let options =
        Options { timeout: Duration::from_secs(20), ..Options::new(servers, "cluster", "me") };
    Client::connect(options).unwrap()
}

fn publish(client: &Client, text: &'static str) -> (String, Receiver<bool>) {
    let (tell, told) = mpsc::channel();
    let guid = client.publish_async("foo", text, move |_, result| {
        tell.send(result.is_ok()).unwrap();
    });
    (guid.unwrap(), told)
}

#[test]
fn a_client_moves_to_the_next_server_and_sends_again_what_was_not_acknowledged() {
    let first = peer(Script { dies_of: Some("die"), ..Script::default() });
    let second = peer(Script::default());
    let client = connect(&[&first, &second]);
    client.publish("foo", "one").unwrap();
    let (guid, acked) = publish(&client, "die");
    // Waits for a connection, or is sent on the new one: both end with its ack.
    let (_, next_acked) = publish(&client, "two");
    while client.reconnects() == 0 {
        thread::yield_now();
    }
    client.resend(&guid).unwrap();
    assert!(acked.recv().unwrap());
    assert!(client.unacked().iter().all(|unacked| unacked.guid != guid));
    client.publish("foo", "three").unwrap();
    for unacked in client.unacked() {
        client.resend(&unacked.guid).unwrap();
    }
    assert!(next_acked.recv().unwrap());
    assert_eq!(client.reconnects(), 1);
    client.close().unwrap();
}

#[test]
fn a_message_right_behind_the_answer_is_delivered() {
    let client = connect(&[&peer(Script::default())]);
    let (tell, told) = mpsc::channel();
    let subscription = client.subscribe("foo", SubscriptionOptions::default(), move |message| {
        tell.send((message.channel.clone(), message.sequence, message.data.clone())).unwrap();
    });
    let subscription = subscription.unwrap();
    assert_eq!(told.recv().unwrap(), ("foo".to_owned(), 7, Bytes::from("first")));
    subscription.close().unwrap();
    client.close().unwrap();
}

#[test]
fn a_handler_may_publish_but_not_wait() {
    let client = Arc::new(connect(&[&peer(Script::default())]));
    let (tell, told) = mpsc::channel();
    let inside = Arc::clone(&client);
    let subscription = client.subscribe("foo", SubscriptionOptions::default(), move |_| {
        let waited = inside.publish("foo", "x");
        let not_waited = inside.publish_async("foo", "x", |_, _| ());
        tell.send((matches!(waited, Err(ClientError::WouldDeadlock)), not_waited.is_ok())).unwrap();
    });
    assert_eq!(told.recv().unwrap(), (true, true));
    subscription.unwrap().unsubscribe().unwrap();
}

#[test]
fn the_words_of_a_refusal_come_through() {
    let client = connect(&[&peer(Script::default())]);
    let options = SubscriptionOptions { in_flight_max: 0, ..SubscriptionOptions::default() };
    let error = client.subscribe("foo", options, |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "stan: invalid MaxInflight, should be >= 1");
}

#[test]
fn a_connect_request_is_repeated_while_nobody_is_active() {
    let client = connect(&[&peer(Script { no_responders: 3, ..Script::default() })]);
    client.publish("foo", "x").unwrap();
    client.close().unwrap();
}

#[test]
fn without_a_server_the_reason_is_given() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Client::connect(Options::new(&[&gone], "cluster", "me")).unwrap_err();
    assert!(matches!(error, ClientError::NoServer(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains(&gone), "{text}");
}

/// Goal: where TLS is asked for and cannot be had, it is said, whoever asks.
#[test]
fn tls_that_only_one_side_can_speak_is_told() {
    let server = peer(Script { needs_tls: true, ..Script::default() });
    for address in [server.clone(), format!("tls://{server}")] {
        let text = Client::connect(Options::new(&[&address], "cluster", "me")).unwrap_err();
        assert!(text.to_string().contains("TLS is required"), "{address}: {text}");
    }
    let server = peer(Script::default());
    let secure = Options { is_secure: true, ..Options::new(&[&server], "cluster", "me") };
    let by_address = Options::new(&[&format!("tls://{server}")], "cluster", "me");
    for options in [secure, by_address] {
        let text = Client::connect(options).unwrap_err();
        assert!(text.to_string().contains("the server does not speak TLS"), "{text}");
    }
}

/// Goal: what was said in clear is not believed as if it had come through TLS, be it whole or not.
#[test]
fn what_comes_in_clear_in_front_of_tls_is_refused() {
    for injected in ["PONG\r\n", "MSG _INBOX.x 1 5\r\nhe"] {
        let server = peer(Script { needs_tls: true, injected, ..Script::default() });
        let provider = rustls::crypto::ring::default_provider();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let options = Options::new(&[&server], "cluster", "me");
        let error = Client::connect(Options { tls: Some(Arc::new(config)), ..options });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("said in clear in front of it"), "{injected:?}: {text}");
    }
}

const SEED: &[u8] = include_bytes!("../../tests/data/external/user.seed");

/// Goal: a key is shown only to who asks for one.
#[test]
fn a_key_needs_a_server_that_asks_for_it() {
    let server = peer(Script::default());
    let key = UserKey::find(SEED).unwrap();
    let options = Options { key: Some(key.into()), ..Options::new(&[&server], "cluster", "me") };
    let text = Client::connect(options).unwrap_err();
    assert!(text.to_string().contains("nkeys not supported"), "{text}");
}

#[test]
fn a_ping_that_a_close_overtook_does_not_fail_it() {
    let server = peer(Script { forgets_at_close: true, ..Script::default() });
    let client = connect(&[&server]);
    assert_eq!(client.close().map_err(|error| error.to_string()), Ok(()));
}
