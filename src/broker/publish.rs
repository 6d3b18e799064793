//! A client's publishes: who may, and what is on its way after them.

use bytes::{Buf, Bytes, BytesMut};

use crate::base::go::quote_any;
use crate::base::id::SessionId;
use crate::base::subject;
use crate::broker::Broker;
use crate::broker::delivery::{Message, Source, is_spread};
use crate::broker::kind::Kind;
use crate::broker::read::Step;
use crate::broker::sublist::Matched;
use crate::wire::op::Publish;
use crate::wire::{encoder, errors, headers};

/// Subjects that the server keeps for itself, as replies of clients (spec core NATS, 2.5).
const RESERVED_REPLIES: [&[u8]; 3] = [b"_R_.", b"$JS.ACK.", b"_GR_."];

/// What no client may publish to.
const RESERVED_SUBJECT: &[u8] = b"_GR_.";

impl Broker {
    pub(super) fn on_publish(
        &mut self,
        id: SessionId,
        publish: &Publish<'_>,
        frame: Option<&Bytes>,
        matched: Option<&Matched>,
    ) -> Step {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(id) else { return Step::End };
        let Kind::Client(client) = &session.kind else { return Step::End };
        session.traffic.came_in(publish.payload.len());
        self.traffic.came_in(publish.payload.len());
        session.ping.heard_at = now.at;
        session.active_at = now.wall;
        let (account, options) = (session.origin.account, client.options);
        let is_allowed = client.permissions.is_none() && !is_reserved(publish);
        if options.is_pedantic && !subject::is_literal(publish.subject) {
            self.send_error(id, errors::INVALID_PUBLISH_SUBJECT);
        }
        if !is_allowed && !self.may_publish(id, publish) {
            return Step::Done;
        }
        if options.is_verbose {
            self.send_ok(id);
        }
        let source = Source::Client { session: id, has_echo: options.has_echo };
        let message = Message::said(account, publish, frame);
        let is_heard = matched.is_some_and(|matched| self.deliver(matched, &message, &source));
        if !is_heard {
            self.on_unheard(id, publish.subject);
        }
        if let (false, true, Some(reply)) = (is_heard, options.wants_no_responders, publish.reply) {
            self.send_no_responders(id, reply);
        }
        let step = self.step_of(id);
        match matched {
            Some(matched) if step == Step::Done && is_spread(matched, publish, None) => {
                Step::Yielded
            }
            Some(_) | None => step,
        }
    }

    fn on_unheard(&mut self, id: SessionId, subject: &[u8]) {
        let Some(discovery) = &self.settings.discovery else { return };
        if let Some(line) = self.unheard.note(discovery, subject, self.now.at) {
            self.log_about(id, log::Level::Warn, &line);
        }
    }

    fn may_publish(&mut self, id: SessionId, publish: &Publish<'_>) -> bool {
        let now = self.now.at;
        let Some(client) = self.sessions.client_mut(id) else { return false };
        let is_permitted = !publish.subject.starts_with(RESERVED_SUBJECT)
            && client.permissions.as_ref().is_none_or(|permissions| {
                permissions.may_publish(publish.subject)
                    || permissions.responses.is_some_and(|responses| {
                        client.replies.allow(publish.subject, responses, now)
                    })
            });
        let reply = publish.reply.unwrap_or_default();
        if is_permitted && !is_reserved_reply(reply) {
            return true;
        }
        let (what, name) =
            if is_permitted { ("Reply", reply) } else { ("Subject", publish.subject) };
        let Some(session) = self.sessions.get(id) else { return false };
        let line =
            format!("Publish Violation - {}, {what} {}", session.user_text(), quote_any(name));
        let refusal = if is_permitted {
            errors::reply_violation(name)
        } else {
            errors::publish_violation(name)
        };
        self.send_error(id, &refusal);
        self.log_about(id, log::Level::Error, &line);
        false
    }

    /// Tells a publisher that nobody listens, if it awaits an answer (spec core NATS, 2.8).
    fn send_no_responders(&mut self, id: SessionId, reply: &[u8]) {
        let Some(account) = self.sessions.get(id).map(|found| found.origin.account) else { return };
        let Some(interest) = self.accounts[account].interest_of(id, reply) else { return };
        let Some(session) = self.sessions.get_mut(id) else { return };
        let len = headers::NO_RESPONDERS.len();
        let names = (reply, &interest.sid[..], None);
        encoder::message_line(session.outbox.tail(), names, Some(len), len);
        session.outbox.put_copy(headers::NO_RESPONDERS);
        session.outbox.put_copy(b"\r\n");
        session.outbox.seal(false);
        self.mark_dirty(id);
    }
}

/// Whether a publish uses names that are not for clients.
fn is_reserved(publish: &Publish<'_>) -> bool {
    publish.subject.starts_with(RESERVED_SUBJECT) || publish.reply.is_some_and(is_reserved_reply)
}

fn is_reserved_reply(reply: &[u8]) -> bool {
    RESERVED_REPLIES.iter().any(|prefix| reply.starts_with(prefix))
}

/// Frames up to this length that wait in outboxes are copied out of the block they were read into.
const DETACHED_FRAME_MAX: usize = 256 * 1024;

/// Takes the frame of a publish at the front of `input` out of it. What goes to engines only is
/// bounded by their credits, and stays where it is.
pub(super) fn take_frame(input: &mut BytesMut, len: usize, matched: Option<&Matched>) -> Bytes {
    if matched.is_some_and(Matched::has_receivers) {
        return detach_frame(input, len);
    }
    input.split_to(len).freeze()
}

/// Takes the frame at the front of `input` out of it, and out of the block that it was read into.
///
/// A reader that does not read would keep the whole block alive of which the frame is a small
/// part, and `max_pending` counts only the frame (P6).
pub(super) fn detach_frame(input: &mut BytesMut, len: usize) -> Bytes {
    if len <= DETACHED_FRAME_MAX {
        let frame = Bytes::copy_from_slice(&input[..len]);
        input.advance(len);
        return frame;
    }
    input.split_to(len).freeze()
}
