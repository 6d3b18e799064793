//! what commands of this machine ask of a running server: how the group is, and to step down

use std::time::Duration;

use crossbeam_channel::Sender;

use crate::base::time::Instant;
use crate::base::world;
use crate::election::input::Input;
use crate::election::membership::Standing;
use crate::engine::effect::Level;
use crate::server::Server;
use crate::server::control_protocol::{GroupStatus, Reply, Request, SteppedDown};
use crate::server::control_socket::{Answer, Asked};
use crate::server::logging::streaming;

/// How long a successor may take to serve before whoever asked for it is told that none came.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(15);

/// A hand-over that somebody asked for.
#[derive(Debug)]
pub(super) struct HandOver {
    answer: Sender<Answer>,
    began_at: Instant,
}

impl HandOver {
    pub fn next_deadline(&self) -> Instant {
        self.began_at + SUCCESSOR_WITHIN
    }

    /// Whoever asked and did not wait misses it.
    fn end(self, reply: Reply) {
        let _ = self.answer.try_send(Answer::Say(reply));
    }
}

impl Server {
    pub(super) fn on_asked(&mut self, Asked { request, asker, answer }: Asked) {
        let reply = match request {
            Request::Administer(what) => {
                // Whoever asked and did not wait misses it.
                return drop(answer.try_send(self.administer(what, asker)));
            }
            Request::Status => {
                self.count_routes();
                Reply::Status(Box::new(self.group_status()))
            }
            Request::StepDown => match self.may_step_down(world::instant()) {
                Ok(successor) => {
                    let text = format!("Asked to step down: {successor} is to be active");
                    streaming(Level::Info, &text);
                    let began_at = world::instant();
                    self.hand_over = Some(HandOver { answer, began_at });
                    return self.tell(Input::HandOverAsked);
                }
                Err(why) => Reply::Refused(why),
            },
            Request::Backup { to } => match self.begin_backup(&to) {
                Ok(status) => Reply::Backup(Box::new(status)),
                Err(why) => Reply::Refused(why),
            },
            Request::BackupStatus => match self.backup_status() {
                Some(status) => Reply::Backup(Box::new(status)),
                None => Reply::Refused("no backup was asked for".to_owned()),
            },
        };
        // Whoever asked and did not wait misses it.
        let _ = answer.try_send(Answer::Say(reply));
    }

    pub(super) fn group_status(&self) -> GroupStatus {
        let now = world::instant();
        let place = self.site.path().map(|path| path.display().to_string());
        GroupStatus {
            cluster_id: self.config.streaming.cluster_id.clone(),
            group: self.config.streaming.ft_group.clone(),
            store: place.unwrap_or_else(|| self.site.name().to_owned()),
            members: self.news.all(self.pages.trouble(now), now),
        }
    }

    /// Who is to be active then.
    ///
    /// # Errors
    /// Why not, for a person.
    fn may_step_down(&self, now: Instant) -> Result<String, String> {
        if self.config.streaming.ft_group.is_none() {
            return Err("this server belongs to no group: nobody would take over".to_owned());
        }
        if self.hand_over.is_some() {
            return Err("it is stepping down already".to_owned());
        }
        match Standing::from(self.member.role()) {
            Standing::Active => (),
            Standing::Standby => return Err("this member is not active".to_owned()),
            Standing::TakingOver
            | Standing::Leaving
            | Standing::Gone
            | Standing::Silent
            | Standing::Unknown => {
                return Err("this member is between two roles: ask again".to_owned());
            }
        }
        let successor = self.news.members.successor(now)?;
        Ok(format!("{} (process {} on {})", successor.server_id, successor.pid, successor.host))
    }

    /// Whether a standby would take over at once, as far as this member hears.
    pub(super) fn has_successor(&self) -> bool {
        self.may_step_down(world::instant()).is_ok()
    }

    /// Answers whoever asked for a hand-over, once another member serves or none came.
    pub(super) fn look_at_hand_over(&mut self) {
        let Some(HandOver { began_at, .. }) = &self.hand_over else { return };
        let (began_at, now) = (*began_at, world::instant());
        let successor = self.news.members.known(now).find(|known| {
            // Said since then: before, it stood by.
            let said_since =
                known.silent_ms <= u64::try_from(now.since(began_at).as_millis()).unwrap_or(0);
            known.news.role == Standing::Active && said_since
        });
        let is_again_active = Standing::from(self.member.role()) == Standing::Active;
        let reply = match successor {
            Some(known) => Reply::SteppedDown(SteppedDown {
                from: self.server_id.clone(),
                to: known.news.server_id,
                millis: now.since(began_at).as_secs_f64() * 1_000.0,
            }),
            None if is_again_active => {
                let text = "nobody else took over, so this member is active again";
                Reply::Refused(text.to_owned())
            }
            None if now.since(began_at) < SUCCESSOR_WITHIN => return,
            None => {
                let seconds = SUCCESSOR_WITHIN.as_secs();
                let text = format!("no other member has said within {seconds} s that it is active");
                Reply::Refused(text)
            }
        };
        if let Some(hand_over) = self.hand_over.take() {
            hand_over.end(reply);
        }
    }
}
