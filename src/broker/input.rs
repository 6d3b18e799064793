//! Everything that can happen to a broker (closed enum).
//!
//! What has an answer is asked by a method of its own: [`Broker::read`] and [`Broker::wrote`], and
//! what shows the state.

use std::sync::Arc;

use crate::base::epoch::Epoch;
use crate::base::errand::Finished;
use crate::base::id::{AccountIndex, LoopIndex, SessionId, Subject};
use crate::broker::{Broker, Credit, EngineInterest, Hello, Mail, Post, Settings, TlsPeer};
use crate::wire::CloseReason;

/// One thing that happened, or that the engine of this loop wants.
#[derive(Debug)]
pub enum Input {
    /// A connection was made: INFO (or what its kind starts with) goes to its outbox.
    ///
    /// Routes are opened on loop 0 only. Where routes use TLS, the handshake comes first: nothing
    /// is sent before [`Input::TlsEstablished`].
    Opened {
        /// Its session from now on.
        session: SessionId,
        /// What is known of it.
        hello: Hello,
    },
    /// An [`crate::broker::Effect::Dial`] came to nothing.
    DialFailed {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// An [`crate::broker::Effect::DialUpstream`] came to nothing.
    UpstreamDialFailed {
        /// Why.
        reason: String,
    },
    /// The URL of an [`crate::broker::Effect::Dial`] leads to this server itself.
    DialledOurselves {
        /// The URL.
        url: String,
    },
    /// The TLS handshake of a session is done.
    TlsEstablished {
        /// Whose.
        session: SessionId,
        /// What it found out.
        peer: TlsPeer,
    },
    /// The TLS handshake of a session came to nothing; its socket is closed.
    TlsFailed {
        /// Whose.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// What an [`crate::broker::Effect::Verify`] came to.
    Verified {
        /// Whose password it is.
        session: SessionId,
        /// The hash that it was held against.
        hash: String,
        /// Whether it belongs to it.
        is_right: bool,
    },
    /// The socket of a session is gone, or must go.
    Closed {
        /// Whose.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// The broker of another loop tells something.
    Mail(Mail),
    /// Settings to put in force; only those who lost their right to be here are closed.
    Settings(Arc<Settings>),
    /// Peers and clients are to be told that this server takes no more clients and will send away
    /// those that it has (spec core NATS, 18.4).
    LameDuck,
    /// All sessions end: what waits for them still goes out.
    Stop,
    /// The engine publishes. Its bytes leave only while the lease is valid.
    Publish {
        /// What.
        post: Post,
        /// Where an answer goes: seldom, so it takes one word.
        reply: Option<Box<Subject>>,
    },
    /// The engine sends a message of a channel to a subscription's inbox.
    Deliver {
        /// What the inbox is watched under.
        key: u64,
        /// The message; its subject is the inbox.
        post: Post,
    },
    /// The engine is to be told, from now on and at once, whether those who listen to an inbox
    /// without wildcards have room: [`crate::broker::Effect::Room`].
    Watch {
        /// What comes back with the answers.
        key: u64,
        /// The account of the inbox.
        account: AccountIndex,
        /// The inbox.
        inbox: Subject,
        /// Whether there is no room while nobody listens, with wildcards or without.
        needs_listener: bool,
    },
    /// No longer.
    Unwatch {
        /// The key given with `Watch`.
        key: u64,
    },
    /// The engine listens from now on; all brokers are told.
    Listen {
        /// On what.
        subject: Subject,
        /// For what.
        interest: EngineInterest,
    },
    /// It no longer listens.
    Unlisten {
        /// On what.
        subject: Subject,
        /// For what.
        interest: EngineInterest,
    },
    /// All engines of this process listen to all that they have to; given to loop 0.
    Ready {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// The engines of an epoch of this process are given nothing more.
    Park {
        /// Which epoch.
        epoch: Epoch,
    },
    /// Read no more of what clients send for engines, and tell by
    /// [`crate::broker::Effect::Through`] when all that was read is done.
    SeeThrough {
        /// Comes back.
        token: u64,
    },
    /// Tell by [`crate::broker::Effect::Outflown`] when what engines have answered up to now is on
    /// the sockets, or does not get there within [`crate::base::limits::OUTFLOW_WITHIN`].
    Outflow {
        /// What comes back.
        token: u64,
    },
    /// The engine of this loop has done these inputs, and what they were answered was given before.
    Done(Vec<Finished>),
    /// Tell by [`crate::broker::Effect::Flushed`] when whoever says something reaches all that this
    /// loop's engine listens to now.
    Flush {
        /// What comes back.
        token: u64,
    },
    /// What needs a credit of an engine has to wait (see [`crate::broker::Flow::Paused`]), or no
    /// longer.
    Pressure {
        /// Which engine.
        engine: LoopIndex,
        /// Which credit.
        credit: Credit,
        /// Whether it has to wait.
        is_high: bool,
    },
    /// The engine is gone (lease lost): all its interests go, and nothing of what engines
    /// published and is not yet on a socket leaves this loop. The other loops do the same when
    /// they get the mail; that bytes stay put until then is the lease check's doing.
    EngineGone,
}

impl Broker {
    pub(super) fn on_input(&mut self, input: Input) {
        match input {
            Input::Publish { post, reply } => self.on_post(&post, reply.as_deref()),
            Input::Deliver { key, post } => self.on_channel_post(key, &post),
            Input::Mail(mail) => self.on_mail(mail),
            Input::Opened { session, hello } => self.on_open(session, hello),
            Input::DialFailed { url, reason } => self.on_dial_failed(&url, &reason),
            Input::UpstreamDialFailed { reason } => self.on_upstream_dial_failed(&reason),
            Input::Flush { token } => self.on_flush(token),
            Input::DialledOurselves { url } => self.on_dialled_ourselves(&url),
            Input::TlsEstablished { session, peer } => self.on_tls_established(session, peer),
            Input::TlsFailed { session, reason } => self.on_tls_failed(session, &reason),
            Input::Verified { session, hash, is_right } => {
                self.on_verified(session, &hash, is_right);
            }
            Input::Closed { session, reason } => self.on_closed(session, &reason),
            Input::Settings(settings) => self.on_reload(settings),
            Input::LameDuck => self.on_lame_duck(),
            Input::Stop => self.on_stop(),
            Input::Watch { key, account, inbox, needs_listener } => {
                let inbox = (account, inbox.detached().to_bytes());
                self.on_watch(key, inbox, needs_listener);
            }
            Input::Unwatch { key } => self.on_unwatch(key),
            Input::Listen { subject, interest } => self.on_listen(&subject, interest),
            Input::Unlisten { subject, interest } => self.on_unlisten(&subject, interest),
            Input::Pressure { engine, credit, is_high } => {
                self.on_pressure(engine, credit, is_high);
            }
            Input::Ready { epoch } => self.on_ready_engines(epoch),
            Input::Park { epoch } => self.on_park(epoch),
            Input::Outflow { token } => self.on_outflow(token),
            Input::SeeThrough { token } => self.on_see_through(token),
            Input::Done(finished) => self.on_done(finished),
            Input::EngineGone => self.on_engine_gone(),
        }
    }

    fn on_tls_failed(&mut self, id: SessionId, reason: &str) {
        if self.sessions.upstream_mut(id).is_some() {
            self.fail_upstream(id, reason);
            return;
        }
        if let Some(session) = self.sessions.get(id) {
            let text = format!("{} error: {reason}", session.rules().handshake_name);
            self.log_about(id, log::Level::Error, &text);
        }
        self.on_closed(id, CloseReason::TlsHandshakeFailure.text());
    }

    fn on_stop(&mut self) {
        self.stop_routes();
        self.stop_upstream();
        for session in self.sessions.ids() {
            self.end(session, CloseReason::ServerShutdown);
        }
    }
}
