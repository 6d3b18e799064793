//! Bytes of a connection → operations, as many as its share of the turn allows.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use crate::base::id::{AccountIndex, SessionId};
use crate::base::limits::SESSION_WORK_MIN;
use crate::broker::delivery::is_spread;
use crate::broker::outbox::COPY_LEN_MAX;
use crate::broker::publish::{detach_frame, take_frame};
use crate::broker::recent::Recent;
use crate::broker::session::Phase;
use crate::broker::spread::Spread;
use crate::broker::sublist::{BYTES_PER_WORK, Found, Matched};
use crate::broker::{Broker, Flow};
use crate::wire::{CloseReason, Limits, Op, Parsed, ProtocolError, Side, errors};

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What becomes of the connection after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The operation is done.
    Done,
    /// It has to wait.
    Paused,
    /// It goes on in the next turn.
    Yielded,
    /// The session is at its end.
    End,
}

/// What is known of a session before the operation at the front of its buffer is read.
struct Front {
    limits: Limits,
    /// Of the work in this turn.
    limit: u64,
    account: AccountIndex,
    /// Whether that operation is a message that some of its receivers have got.
    is_spreading: bool,
}

impl Broker {
    /// Handles every whole operation at the front of `input` and takes it out.
    pub(super) fn read_all(&mut self, id: SessionId, input: &mut BytesMut) -> Flow {
        let limit = self.work_done() + self.share;
        let arrived_len = input.len();
        loop {
            if limit <= self.work_done() && !input.is_empty() {
                return Flow::Yielded;
            }
            self.work += 1;
            let Some(session) = self.sessions.get_mut(id) else {
                input.clear();
                return Flow::Close;
            };
            session.is_paused = false;
            match &session.phase {
                Phase::Ending { .. } => {
                    input.clear();
                    return Flow::Close;
                }
                // A client begins its handshake, whatever the server says meanwhile.
                Phase::AwaitTls { .. } if session.upstream().is_some() => return Flow::StartTls,
                Phase::AwaitTls { is_optional } => match (is_optional, input.first()) {
                    (_, None) => return Flow::NeedMore,
                    (true, Some(byte)) if *byte != TLS_HANDSHAKE => self.on_plain(id),
                    (_, Some(_)) => return Flow::StartTls,
                },
                Phase::Open if session.verifying.is_some() => {
                    session.is_paused = true;
                    return Flow::Paused;
                }
                Phase::Open => (),
            }
            match self.read_one(id, input, (limit, arrived_len)) {
                None => return Flow::NeedMore,
                Some(Step::Done) => (),
                Some(Step::Paused) => return Flow::Paused,
                Some(Step::Yielded) => return Flow::Yielded,
                Some(Step::End) => {
                    input.clear();
                    return Flow::Close;
                }
            }
        }
    }

    /// One operation; `None` if there is no whole one. Work has a limit in this turn, and so much
    /// was there when it began.
    fn read_one(
        &mut self,
        id: SessionId,
        input: &mut BytesMut,
        (limit, arrived_len): (u64, usize),
    ) -> Option<Step> {
        let first = *input.first()?;
        let mut session = self.sessions.get(id)?;
        if session.is_auth_pending && !first.eq_ignore_ascii_case(&b'c') {
            let step = self.on_operation_before_connect(id);
            if step != Step::Done {
                return Some(step);
            }
            session = self.sessions.get(id)?;
        }
        let front = Front {
            limits: session.kind.limits(session.has_headers, &self.settings),
            limit,
            account: session.origin.account,
            is_spreading: session.spread.is_some(),
        };
        let limits = &front.limits;
        let (step, len) = match crate::wire::parse(input, limits) {
            Ok(Parsed::NeedMore { len }) => {
                let missing = len.unwrap_or(0).saturating_sub(input.len());
                input.reserve(missing);
                return None;
            }
            Ok(Parsed::Op { op: op @ (Op::Publish(_) | Op::RouteMessage(_)), len }) => {
                match self.on_message(id, &op, &input[..len], &front) {
                    Ok(step) => (step, len),
                    Err(matched) => {
                        let find = op.finder(input);
                        let frame = if limits.side == Side::Client {
                            take_frame(input, len, matched.as_deref())
                        } else {
                            detach_frame(input, len)
                        };
                        let matched = matched.as_deref();
                        let step = self.on_message_op(id, &find(&frame), Some(&frame), matched);
                        return Some(step);
                    }
                }
            }
            Ok(Parsed::Op { op, len }) => {
                if self.settings.is_traced {
                    self.trace_in(id, &input[..len]);
                }
                self.work += (len / BYTES_PER_WORK) as u64;
                (self.on_op(id, &op), len)
            }
            Err(error) => return Some(self.on_protocol_error(id, &error, (input, arrived_len))),
        };
        if step == Step::Done {
            input.advance(len);
        }
        if step == Step::Done && limits.side == Side::Stranger {
            return Some(self.on_introduction(id, len));
        }
        Some(step)
    }

    /// A message at the front of the buffer, whole in `bytes`. An error with its receivers where
    /// they are to share its payload: then it has to be taken out of the buffer.
    fn on_message(
        &mut self,
        id: SessionId,
        op: &Op<'_>,
        bytes: &[u8],
        front: &Front,
    ) -> Result<Step, Option<Arc<Matched>>> {
        let publish = op.message();
        if front.is_spreading
            && let Some(spread) = self.sessions.get_mut(id).and_then(|found| found.spread.take())
        {
            return Ok(self.go_on_spreading(id, spread, op, (bytes, front.limit)));
        }
        if matches!(op, Op::RouteMessage(_)) && self.must_hear_out(id) {
            return Ok(Step::Paused);
        }
        let account = if let Op::RouteMessage(routed) = op {
            self.accounts.find(routed.account)
        } else {
            Some(front.account)
        };
        let found = self.receivers(id, account, publish.subject, front.limit);
        let Found::All(matched) = found else { return Ok(Step::Yielded) };
        let names = if let Op::RouteMessage(routed) = op { Some(routed.queues) } else { None };
        let must_spread = |matched: &Matched| is_spread(matched, publish, names);
        if let (Op::Publish(publish), Some(account)) = (op, account)
            && self.must_wait(id, account, publish, matched.as_deref())
        {
            return Ok(Step::Paused);
        }
        if self.settings.is_traced {
            self.trace_in(id, bytes);
        }
        let is_long = publish.payload.len() > COPY_LEN_MAX;
        if is_long && !matched.as_deref().is_some_and(must_spread) {
            return Err(matched);
        }
        let frame = is_long.then(|| Bytes::copy_from_slice(bytes));
        let step = match &frame {
            Some(frame) => {
                let op = op.finder(bytes)(frame);
                self.on_message_op(id, &op, Some(frame), matched.as_deref())
            }
            None => self.on_message_op(id, op, None, matched.as_deref()),
        };
        if let (Step::Yielded, Some(matched), Some(account)) = (step, matched, account)
            && let Some(session) = self.sessions.get_mut(id)
        {
            session.spread = Some(Spread::new(account, matched, publish, frame));
        }
        Ok(step)
    }

    fn on_message_op(
        &mut self,
        id: SessionId,
        op: &Op<'_>,
        frame: Option<&Bytes>,
        matched: Option<&Matched>,
    ) -> Step {
        if let Op::RouteMessage(routed) = op {
            return self.on_route_message(id, routed, frame, matched);
        }
        self.on_publish(id, op.message(), frame, matched)
    }

    /// Who gets a message, as far as there is work left for that in this turn.
    fn receivers(
        &mut self,
        id: SessionId,
        account: Option<AccountIndex>,
        subject: &[u8],
        limit: u64,
    ) -> Found {
        // Always some, so that each turn comes nearer to the end.
        let most = limit.saturating_sub(self.work_done()).max(SESSION_WORK_MIN);
        let (Some(session), Some(account)) = (self.sessions.get_mut(id), account) else {
            return Found::All(None);
        };
        let tree = &mut self.accounts[account];
        let version = (account, tree.change_count());
        let recalled = session.recent.as_ref().and_then(|it| it.recall(version, subject));
        if let Some(found) = recalled {
            tree.count_recalled(found.is_some());
            return Found::All(found.cloned());
        }
        // What was found in portions may be what was right while it was looked for.
        let is_at_once = session.search.is_none();
        let found = tree.matches_some(subject, most, &mut session.search);
        if let (Found::All(found), true) = (&found, is_at_once) {
            Recent::remember(&mut session.recent, version, subject, found.as_ref());
        }
        found
    }

    /// Tells the peer and the log, in the order of the reference; `input` begins with what is
    /// wrong, and was so long before this turn.
    fn on_protocol_error(
        &mut self,
        id: SessionId,
        error: &ProtocolError,
        (input, arrived_len): (&[u8], usize),
    ) -> Step {
        if self.settings.is_traced && error.is_behind_line() {
            self.trace_line(id, input);
        }
        if self.sessions.upstream_mut(id).is_some() {
            return self.fail_upstream(id, format!("nats: {error}"));
        }
        match error {
            ProtocolError::UnknownOperation { state, at } => {
                let Some(session) = self.sessions.get(id) else { return Step::End };
                let who = session.rules().ended.0;
                let place = arrived_len - input.len() + at;
                let text = errors::no_operation(who, (*state, place), &input[*at..]);
                self.send_error(id, errors::UNKNOWN_OPERATION);
                self.log_about(id, log::Level::Error, &text);
                self.end(id, error.reason());
            }
            ProtocolError::ControlLineTooLong { .. } => {
                self.send_error(id, errors::CONTROL_LINE_EXCEEDED);
                self.end(id, error.reason());
                self.log_about(id, log::Level::Error, &error.to_string());
            }
            ProtocolError::PayloadTooLarge { .. } => {
                self.log_about(id, log::Level::Error, &error.to_string());
                self.send_error(id, errors::PAYLOAD_EXCEEDED);
                self.end(id, error.reason());
            }
            ProtocolError::HeadersNotSupported | ProtocolError::Arguments { .. } => {
                self.log_about(id, log::Level::Error, &error.to_string());
                self.end(id, error.reason());
            }
        }
        Step::End
    }

    /// Logs what is wrong and closes without telling the client.
    pub(super) fn refuse(&mut self, id: SessionId, text: &str, reason: CloseReason) -> Step {
        self.log_about(id, log::Level::Error, text);
        if let Some(route) = self.sessions.route_mut(id) {
            route.is_refused = true;
        }
        self.end(id, reason);
        Step::End
    }

    /// The document of an operation; whose documents make no sense is at its end.
    pub(super) fn document<T, E: std::fmt::Display>(
        &mut self,
        id: SessionId,
        json: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Option<T> {
        // In receivers of a message.
        self.work += 16 + json.len() as u64 / 32;
        match decode(json) {
            Ok(found) => Some(found),
            Err(error) => {
                self.refuse(id, &error.to_string(), CloseReason::ProtocolViolation);
                None
            }
        }
    }

    /// What follows an operation that may have ended its session.
    pub(super) fn step_of(&self, id: SessionId) -> Step {
        match self.sessions.get(id) {
            Some(session) if !session.is_ending() => Step::Done,
            Some(_) | None => Step::End,
        }
    }
}
