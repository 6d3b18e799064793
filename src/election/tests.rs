//! every transition of a member, and what it asks for by it

use bytes::Bytes;

use super::stopping::{DRAIN_WITHIN, FOR_EVER, RETRY_AFTER_HAND_OVER, STORE_ENDS_WITHIN};
use super::*;
use crate::base::random::Random;
use crate::base::time::WallTime;
use crate::election::heartbeat::{Heartbeat, encode_heartbeat};

const EPOCH: Epoch = Epoch(7);
const TERM: u64 = 1;

/// A member, the clock that it is told, and what it asked for last.
struct Play {
    member: Member,
    now: Now,
    asked: Vec<Effect>,
}

impl Play {
    fn alone() -> Self {
        Self::of(None)
    }

    fn in_group() -> Self {
        let group = Group::new("cluster", "group", "own", &mut Random::new(1));
        Self::of(Some(group))
    }

    fn of(group: Option<Group>) -> Self {
        let now = Now { at: Instant(1_000_000_000), wall: WallTime(1) };
        Self { member: Member::new(2, group), now, asked: Vec::new() }
    }

    fn tell(mut self, input: Input) -> Self {
        self.member.handle(input, self.now);
        self.asked = std::iter::from_fn(|| self.member.poll_effect()).collect();
        self
    }

    fn all(self, inputs: impl IntoIterator<Item = Input>) -> Self {
        inputs.into_iter().fold(self, Self::tell)
    }

    /// Lets time pass up to the next deadline, and says so.
    fn wait(mut self) -> Self {
        self.now.at = self.member.next_deadline().expect("something is due");
        self.tell(Input::Due)
    }

    #[track_caller]
    fn check(self, role: Role, asked: &[Effect]) -> Self {
        assert_eq!(self.member.role(), role);
        assert_eq!(self.asked, asked);
        self
    }

    fn waited(&self, since: &Now) -> Duration {
        self.now.at.since(since.at)
    }
}

fn won_under(epoch: Epoch) -> Input {
    Input::Won { epoch, predecessor: Predecessor::Gone }
}

fn won() -> Input {
    won_under(EPOCH)
}

fn lost() -> Input {
    Input::Lost { why: "lost".to_owned() }
}

fn answered(question: Question) -> [Input; 2] {
    [(); 2].map(|()| Input::Answered { term: TERM, question })
}

fn recovered() -> Input {
    Input::Recovered { term: TERM }
}

fn failed(is_final: bool, lasts: bool) -> Input {
    failed_in(TERM, is_final, lasts)
}

fn failed_in(term: u64, is_final: bool, lasts: bool) -> Input {
    let failure = Failure { text: "broken".to_owned(), is_final, lasts };
    Input::RecoveryFailed { term, failure }
}

fn stop(ending: Ending) -> Input {
    Input::StopAsked { ending }
}

fn drained() -> [Input; 2] {
    [(); 2].map(|()| Input::Drained { term: TERM, result: Ok(()) })
}

fn left() -> Input {
    Input::Left { term: TERM }
}

fn store_failed(is_final: bool) -> Input {
    Input::StoreFailed { term: TERM, text: "broken".to_owned(), is_final }
}

fn complain(text: &str) -> Effect {
    Effect::Complain { text: text.to_owned() }
}

fn end(ending: Ending) -> Effect {
    Effect::End { ending }
}

fn release(is_clean: bool, retry_after: Duration) -> Effect {
    Effect::Release { epoch: EPOCH, is_clean, retry_after }
}

fn leaving(rest: Rest, release: Option<Release>) -> Role {
    Role::Leaving { epoch: EPOCH, rest, release }
}

const AT_ONCE: Option<Release> = Some(Release { is_clean: false, retry_after: Duration::ZERO });
const ALL: Rest = Rest::Loops { missing: 2 };
const ACTIVE: Role = Role::Active { epoch: EPOCH };
const RECOVERING: Role = Role::Recovering { epoch: EPOCH };
const PROBING: Role = Role::Probing { epoch: EPOCH };
const DRAINING: Role = Role::Draining { epoch: EPOCH, missing: 2 };
const DEACTIVATE: Effect = Effect::Deactivate { term: TERM };
const AWAIT_STORE: Effect = Effect::AwaitStore { term: TERM };
const DRAIN: Effect = Effect::Drain { term: TERM };

/// A member of a group that serves.
fn active() -> Play {
    Play::in_group().all([won(), recovered()]).all(served())
}

fn served() -> Vec<Input> {
    let opened = Input::Opened { term: TERM };
    let rounds = answered(Question::Serve).into_iter().chain([opened]);
    rounds.chain(answered(Question::Sync)).collect()
}

/// Every role in which the loops have engines, and who holds it.
fn with_engines() -> Vec<Play> {
    let opening = || Play::in_group().all([won(), recovered()]);
    vec![
        Play::alone().all([won(), recovered()]),
        opening(),
        opening().all(served().into_iter().take(3)),
        active(),
    ]
}

// ---- becoming active

#[test]
fn a_member_that_wins_recovers_opens_settles_and_serves() {
    let recover = Effect::Recover { term: TERM, epoch: EPOCH, predecessor: Predecessor::Gone };
    let play = Play::in_group().tell(won()).check(RECOVERING, &[recover]);
    let opening = |missing, is_open| Role::Opening { epoch: EPOCH, missing, is_open };
    let (activate, serve) = (Effect::Activate { term: TERM }, Effect::Serve { term: TERM });
    let play = play.tell(recovered()).check(opening(2, false), &[activate, serve]);
    let [one, other] = answered(Question::Serve);
    let play = play.tell(one).check(opening(1, false), &[]);
    let play = play.tell(Input::Opened { term: TERM }).check(opening(1, true), &[]);
    let settling = |missing| Role::Settling { epoch: EPOCH, missing };
    let play = play.tell(other).check(settling(2), &[Effect::Sync { term: TERM }]);
    let [one, other] = answered(Question::Sync);
    play.tell(one).check(settling(1), &[]).tell(other).check(ACTIVE, &[Effect::Announce]);
}

#[test]
fn a_server_alone_speaks_only_after_it_has_asked_around() {
    let (activate, ask) = (Effect::Activate { term: TERM }, Effect::AskAround { term: TERM });
    let play = Play::alone().all([won(), recovered()]).check(PROBING, &[activate, ask]);
    let opening = Role::Opening { epoch: EPOCH, missing: 2, is_open: false };
    let alone = Input::FoundAlone { term: TERM };
    play.tell(alone).check(opening, &[Effect::Serve { term: TERM }]);
}

#[test]
fn another_server_of_the_cluster_ends_a_start_and_only_delays_who_has_served() {
    let found = |term| Input::FoundAnother { term, text: "another".to_owned() };
    let play = Play::alone().all([won(), recovered(), found(TERM)]);
    let line = "Failed to start: another".to_owned();
    let asked = [Effect::Fail { line }, Effect::Withdraw, DEACTIVATE];
    let play = play.check(leaving(ALL, None), &asked);
    let play = play.all(answered(Question::Deactivate)).tell(left());
    play.check(Role::Ended, &[end(Ending::Failed)]);

    let served = [won(), recovered(), Input::FoundAlone { term: TERM }];
    let play = Play::alone().all(served).all(self::served()).tell(lost());
    let play = play.all(answered(Question::Deactivate)).tell(left());
    let again = [won_under(Epoch(9)), Input::Recovered { term: 2 }, found(2)];
    let play = play.all(again);
    assert_eq!(play.asked[0], complain("another"));
    assert!(play.asked.contains(&Effect::Deactivate { term: 2 }));
    assert!(matches!(play.member.role(), Role::Leaving { release: Some(_), .. }));
}

#[test]
fn a_recovery_that_may_succeed_later_is_tried_with_growing_pauses() {
    let mut play = Play::in_group();
    let mut pauses = Vec::new();
    for term in 1..=9 {
        play = play.all([won(), failed_in(term, false, true)]);
        assert_eq!(play.member.role(), Role::Standby);
        let trouble = Effect::ShowTrouble { text: "broken".to_owned(), lasts: true };
        assert_eq!(play.asked[..3], [complain("broken"), trouble, Effect::Withdraw]);
        pauses.extend(play.asked.iter().filter_map(|effect| {
            if let Effect::Release { retry_after, .. } = effect { Some(*retry_after) } else { None }
        }));
    }
    assert_eq!(pauses[..3], [RETRY_MIN, RETRY_MIN * 2, RETRY_MIN * 4]);
    assert_eq!((pauses.len(), pauses[8]), (9, RETRY_MAX));
}

#[test]
fn a_recovery_that_fails_for_good_ends_the_process() {
    let fail = |line: &str| Effect::Fail { line: line.to_owned() };
    let asked = |line| [fail(line), Effect::Withdraw, end(Ending::Failed)];
    let failed_for_good = Play::in_group().all([won(), failed(true, true)]);
    failed_for_good.check(Role::Ended, &asked("broken"));
    let first_start = Play::alone().all([won(), failed(false, true)]);
    first_start.check(Role::Ended, &asked("Failed to start: broken"));
    let passing = Play::alone().all([won(), failed(false, false)]);
    assert_eq!(passing.member.role(), Role::Standby);
}

#[test]
fn who_stands_alone_and_cannot_have_the_lease_ends() {
    let refused = Play::alone().tell(Input::Refused { why: "held".to_owned() });
    let line = "Failed to start: held".to_owned();
    let asked = [Effect::Fail { line }, Effect::Withdraw, end(Ending::Failed)];
    refused.check(Role::Ended, &asked);
}

// ---- losing the lease, and what fails

#[test]
fn a_lost_lease_is_heard_in_every_role() {
    Play::in_group().tell(lost()).check(Role::Standby, &[complain("lost")]);
    let recovering = Play::in_group().all([won(), lost()]);
    let asked = [complain("lost"), Effect::Withdraw, DEACTIVATE];
    recovering.check(leaving(Rest::Recovery, None), &asked);
    for play in with_engines() {
        let asked = [complain("lost"), Effect::Withdraw, DEACTIVATE];
        let play = play.tell(lost()).check(leaving(ALL, None), &asked);
        let play = play.all(answered(Question::Deactivate));
        let play = play.check(leaving(Rest::Threads, None), &[AWAIT_STORE]);
        assert_eq!(play.member.next_deadline(), None, "a disk may take as long as it likes");
        play.tell(left()).check(Role::Standby, &[]);
    }
    let handing_over = active().all([Input::HandOverAsked, lost()]);
    handing_over.check(leaving(ALL, None), &[complain("lost"), Effect::Withdraw, DEACTIVATE]);
}

#[test]
fn what_a_recovery_of_a_lost_term_made_is_dropped_when_it_wakes() {
    let lost = || Play::in_group().all([won(), lost()]);
    let play = lost().tell(recovered());
    let play = play.check(leaving(Rest::Threads, None), &[AWAIT_STORE]);
    play.tell(left()).check(Role::Standby, &[]);
    lost().tell(failed(true, true)).check(Role::Standby, &[]);
}

#[test]
fn a_lease_that_is_won_again_waits_for_the_threads_of_the_former_term() {
    let next = Epoch(9);
    let begun = Effect::Recover { term: 2, epoch: next, predecessor: Predecessor::Gone };
    let recovering = Role::Recovering { epoch: next };
    let play = Play::in_group().all([won(), lost(), won_under(next)]);
    let play = play.check(leaving(Rest::Recovery, None), &[]);
    let play = play.tell(failed(false, false)).check(recovering, std::slice::from_ref(&begun));
    // What is late of the first term changes nothing in the second.
    let late = [recovered(), failed(true, true), Input::Opened { term: TERM }, store_failed(true)];
    let late = late.into_iter().chain(answered(Question::Serve)).chain(drained()).chain([left()]);
    play.all(late).check(recovering, &[]);

    let play = active().all([lost(), won_under(next)]).all(answered(Question::Deactivate));
    play.tell(left()).check(recovering, &[begun]);
    let again = active().all([lost(), won_under(next), lost()]);
    again.all(answered(Question::Deactivate)).tell(left()).check(Role::Standby, &[]);
}

#[test]
fn a_store_that_fails_costs_the_role_and_the_lease_is_given_back_after_its_threads() {
    for play in with_engines() {
        let asked = [complain("broken"), Effect::Withdraw, DEACTIVATE];
        let play = play.tell(store_failed(false)).check(leaving(ALL, AT_ONCE), &asked);
        let again = play.tell(store_failed(false)).check(leaving(ALL, AT_ONCE), &asked[..1]);
        let play = again.all(answered(Question::Deactivate));
        play.tell(left()).check(Role::Standby, &[release(false, Duration::ZERO)]);
    }
    let lost_too = active().all([store_failed(false), lost()]).all(answered(Question::Deactivate));
    lost_too.tell(left()).check(Role::Standby, &[]);
}

#[test]
fn a_store_that_nobody_can_serve_ends_the_process_within_a_bound() {
    let fail = Effect::Fail { line: "broken".to_owned() };
    let asked = [complain("broken"), fail, Effect::Withdraw, DEACTIVATE];
    let play = active().tell(store_failed(true)).check(leaving(ALL, None), &asked);
    let failed_at = play.now;
    let play = play.all(answered(Question::Deactivate)).wait();
    assert_eq!(play.waited(&failed_at), STORE_ENDS_WITHIN);
    play.check(Role::Ended, &[end(Ending::Failed)]);
    let in_time = active().tell(store_failed(true)).all(answered(Question::Deactivate));
    in_time.tell(left()).check(Role::Ended, &[end(Ending::Failed)]);
}

#[test]
fn loops_that_do_not_answer_break_the_process() {
    let silent = [
        Play::alone().all([won(), recovered(), Input::FoundAlone { term: TERM }]),
        Play::alone().all([won(), recovered(), lost()]),
        {
            let settling = [won(), recovered(), Input::FoundAlone { term: TERM }];
            Play::alone().all(settling).all(served().into_iter().take(3))
        },
    ];
    for play in silent {
        let asked_at = play.now;
        let play = play.wait();
        assert_eq!(play.waited(&asked_at), LOOPS_ANSWER_WITHIN);
        assert_eq!(play.asked, [Effect::Break]);
    }
    let opening = [won(), recovered(), Input::FoundAlone { term: TERM }];
    let opening = Play::alone().all(opening).all(answered(Question::Serve));
    assert_eq!(opening.member.next_deadline(), None, "the store may take longer");
}

// ---- stopping

#[test]
fn a_stop_drains_releases_and_ends() {
    for play in with_engines() {
        let asked = [Effect::SayStopping, Effect::Withdraw, DRAIN];
        let play = play.tell(stop(Ending::Done)).check(DRAINING, &asked);
        let [one, other] = drained();
        let play = play.tell(one).tell(stop(Ending::Terminated));
        let play = play.check(Role::Draining { epoch: EPOCH, missing: 1 }, &[]);
        play.tell(other).check(Role::Ended, &[release(true, FOR_EVER), end(Ending::Done)]);
    }
    let standby = Play::in_group().tell(stop(Ending::Terminated));
    standby.check(Role::Ended, &[Effect::SayStopping, end(Ending::Terminated)]);
    let leaving = active().all([lost(), stop(Ending::Done)]);
    leaving.check(Role::Ended, &[Effect::SayStopping, end(Ending::Done)]);
}

#[test]
fn a_stop_waits_for_no_store_that_fails_hangs_or_is_lost() {
    let asked = [release(false, FOR_EVER), end(Ending::Done)];
    let ends = |first: &str, play: Play| {
        play.check(Role::Ended, &[&[complain(first)], &asked[..]].concat());
    };
    let stopping = || active().tell(stop(Ending::Done));
    ends("broken", stopping().tell(store_failed(false)));
    let play = stopping();
    let asked_at = play.now;
    let play = play.wait();
    assert_eq!(play.waited(&asked_at), DRAIN_WITHIN);
    ends(NOT_CLOSED_IN_TIME, play);
    stopping().tell(lost()).check(Role::Ended, &[complain("lost"), end(Ending::Done)]);
}

#[test]
fn a_stop_is_heard_while_the_store_is_read_and_what_is_read_in_time_is_closed() {
    let stopping = || Play::in_group().all([won(), stop(Ending::Done)]);
    let play = stopping().check(RECOVERING, &[Effect::SayStopping]);
    let asked_at = play.now;
    let mut hangs = play;
    while hangs.member.role() == RECOVERING {
        hangs = hangs.wait();
    }
    assert_eq!(hangs.waited(&asked_at), STORE_ENDS_WITHIN);
    hangs.check(Role::Ended, &[end(Ending::Done)]);
    let closed = stopping().tell(recovered());
    let closed =
        closed.check(DRAINING, &[Effect::Activate { term: TERM }, Effect::Withdraw, DRAIN]);
    closed.all(drained()).check(Role::Ended, &[release(true, FOR_EVER), end(Ending::Done)]);
    let failed = stopping().tell(failed(true, true));
    failed.check(Role::Ended, &[complain("broken"), end(Ending::Done)]);
    stopping().tell(lost()).check(Role::Ended, &[complain("lost"), end(Ending::Done)]);
}

#[test]
fn a_stop_at_once_ends_from_every_role_and_nothing_happens_after_the_end() {
    let mut plays = with_engines();
    plays.push(Play::in_group());
    plays.push(Play::in_group().tell(won()));
    plays.push(active().tell(stop(Ending::Done)));
    plays.push(active().tell(lost()));
    for play in plays {
        let play = play.tell(stop(Ending::AtOnce)).check(Role::Ended, &[end(Ending::AtOnce)]);
        let play = play.all([won(), lost(), recovered(), stop(Ending::Done), Input::Due]);
        play.check(Role::Ended, &[]);
    }
}

#[test]
fn a_lame_duck_stops_when_its_clients_are_gone_and_not_before() {
    let play = active().tell(Input::LameDuckAsked).check(ACTIVE, &[Effect::SeeOff]);
    let play = play.tell(Input::LameDuckAsked).check(ACTIVE, &[]);
    let play = play.tell(stop(Ending::Terminated)).check(ACTIVE, &[]);
    let play = play.tell(Input::SeenOff);
    play.check(DRAINING, &[Effect::SayStopping, Effect::Withdraw, DRAIN]);
    let interrupted = active().all([Input::LameDuckAsked, stop(Ending::Done)]);
    assert_eq!(interrupted.member.role(), DRAINING);
    let stopping = active().all([stop(Ending::Done), Input::LameDuckAsked]);
    stopping.check(DRAINING, &[]);
}

#[test]
fn a_hand_over_leaves_the_lease_to_others_once_everything_is_synced() {
    let play = active().tell(Input::HandOverAsked).check(DRAINING, &[Effect::Withdraw, DRAIN]);
    let given = Release { is_clean: true, retry_after: RETRY_AFTER_HAND_OVER };
    let play = play.all(drained());
    let play = play.check(leaving(ALL, Some(given)), &[Effect::Withdraw, DEACTIVATE]);
    let play = play.all(answered(Question::Deactivate)).tell(left());
    let play = play.check(Role::Standby, &[release(true, RETRY_AFTER_HAND_OVER)]);
    // Whom it made room for has come: it is a standby like others at once.
    let play = play.tell(Input::OtherServes).check(Role::Standby, &[Effect::StandByAgain]);
    play.tell(Input::OtherServes).check(Role::Standby, &[]);
    let outweighed = active().all([Input::HandOverAsked, stop(Ending::Done)]).all(drained());
    outweighed.check(Role::Ended, &[release(true, FOR_EVER), end(Ending::Done)]);
    Play::in_group().tell(Input::HandOverAsked).check(Role::Standby, &[]);
}

fn hand_over_and_stop() -> Input {
    Input::StopAfterHandOver { ending: Ending::Terminated }
}

#[test]
fn who_hands_over_before_it_stops_waits_for_the_one_that_serves() {
    let play = active().tell(hand_over_and_stop());
    let play = play.check(DRAINING, &[Effect::Withdraw, DRAIN]);
    // Somebody says so while this one still holds the lease: then it is not true.
    let play = play.tell(Input::OtherServes).check(DRAINING, &[]).all(drained());
    let given = Release { is_clean: true, retry_after: FOR_EVER };
    let play = play.check(leaving(ALL, Some(given)), &[Effect::Withdraw, DEACTIVATE]);
    let play = play.all(answered(Question::Deactivate)).tell(left());
    let play = play.check(Role::Standby, &[release(true, FOR_EVER)]);
    let play = play.tell(Input::OtherServes);
    let play = play.check(Role::Standby, &[Effect::SeeThrough { term: TERM }]);
    let play = play.tell(Input::OtherServes).check(Role::Standby, &[]);
    let play = play.all(answered(Question::Through));
    play.check(Role::Ended, &[Effect::SayStopping, end(Ending::Terminated)]);
}

#[test]
fn who_hands_over_before_it_stops_waits_for_nobody_for_ever() {
    let handed_over = || {
        let play = active().tell(hand_over_and_stop()).all(drained());
        play.all(answered(Question::Deactivate)).tell(left())
    };
    let ended = [Effect::SayStopping, end(Ending::Terminated)];
    let begun = handed_over();
    let (play, since) = (handed_over(), begun.now);
    let play = play.wait().check(Role::Ended, &ended);
    assert_eq!(play.waited(&since), SUCCESSOR_SERVES_WITHIN);
    // What clients have sent may have nobody to do it.
    let stuck = handed_over().tell(Input::OtherServes);
    stuck.wait().check(Role::Ended, &ended);
    // Asked again it ends at once, as it does where there is nothing to hand over.
    handed_over().tell(stop(Ending::Terminated)).check(Role::Ended, &ended);
    Play::in_group().tell(hand_over_and_stop()).check(Role::Ended, &ended);
    // Won again although it was given away for ever.
    handed_over().tell(won_under(EPOCH.next())).check(Role::Ended, &ended);
    let lost_before = active().all([hand_over_and_stop(), lost()]);
    let lost_before = lost_before.all(answered(Question::Deactivate)).tell(left());
    lost_before.wait().check(Role::Ended, &ended);
}

// ---- the group

fn heartbeat_of(server_id: &'static str) -> Input {
    let server_id = Bytes::from_static(server_id.as_bytes());
    Input::Heartbeat {
        payload: encode_heartbeat(&Heartbeat { server_id, active_since: WallTime(1) }),
    }
}

fn waiting_for(holder: &str) -> Input {
    Input::Waiting { holder: Some(holder.to_owned()) }
}

#[test]
fn a_standby_reaches_the_active_as_long_as_its_heartbeats_come() {
    let play = Play::in_group().tell(waiting_for("active"));
    let play = play.check(Role::Standby, &[Effect::ShowReachable(false), Effect::Survey]);
    let play = play.tell(heartbeat_of("forged")).check(Role::Standby, &[]);
    let play = play.tell(heartbeat_of("active"));
    let play = play.check(Role::Standby, &[Effect::ShowReachable(true)]);
    let heard_at = play.now;
    let play = play.wait();
    assert_eq!(play.waited(&heard_at), REACHABLE_FOR);
    let play = play.check(Role::Standby, &[Effect::ShowReachable(false)]);
    let play = play.all([heartbeat_of("active"), waiting_for("another")]);
    let play = play.check(Role::Standby, &[Effect::ShowReachable(false), Effect::Survey]);
    assert_eq!(play.member.next_deadline(), None);
    Play::alone().tell(waiting_for("active")).check(Role::Standby, &[]);
}

fn claims() -> Effect {
    complain("ft: serverID \"forged\" claims to be active")
}

/// An active whose predecessor answers nobody any more.
fn settled() -> Play {
    let mut play = active();
    play.now.at = play.now.at + Duration::from_secs(10);
    play
}

#[test]
fn a_forged_heartbeat_only_makes_an_active_look_and_ask() {
    let early = active().tell(heartbeat_of("forged"));
    early.check(ACTIVE, &[claims(), Effect::CheckLease]);
    let expected = [claims(), Effect::AskRival, Effect::CheckLease];
    let play = settled().tell(heartbeat_of("forged")).check(ACTIVE, &expected);
    play.tell(heartbeat_of("forged")).check(ACTIVE, &[Effect::CheckLease]);
}

/// Goal: an active shows another one for as long as that claims to be active and answers clients.
#[test]
fn another_active_is_shown_when_it_answers_and_until_it_claims_no_more() {
    let shown = |play: &Play| {
        let is_text = |effect: &Effect| {
            if let Effect::ShowRival(text) = effect { Some(text.is_some()) } else { None }
        };
        play.asked.iter().find_map(is_text)
    };
    let unasked = settled().tell(Input::RivalAnswered);
    assert_eq!(shown(&unasked), None, "nobody was asked");
    let play = unasked.tell(heartbeat_of("other")).tell(Input::RivalAnswered);
    assert_eq!(shown(&play), Some(true));
    let mut play = play.tell(Input::RivalAnswered);
    assert_eq!(shown(&play), None, "it is known");
    let mut asked = Vec::new();
    for second in 1..=50 {
        play.now.at = play.now.at + Duration::from_secs(1);
        play = play.tell(heartbeat_of("other"));
        if play.asked.contains(&Effect::AskRival) {
            asked.push(second);
        }
        if let Some(is_shown) = shown(&play) {
            assert_eq!((is_shown, asked.len()), (false, 2), "one question in a row may be lost");
            break;
        }
    }
    assert_eq!(asked, [2, 6], "with growing pauses");
    let mut play = play.tell(Input::RivalAnswered);
    assert_eq!(shown(&play), Some(true));
    while shown(&play).is_none_or(|is_shown| is_shown) {
        play = play.wait();
    }
    let play = play.tell(heartbeat_of("other")).tell(lost());
    assert!(play.asked.contains(&Effect::Withdraw), "no page shows it any more");
}

#[test]
fn who_holds_the_lease_sends_heartbeats_from_its_recovery_until_it_withdraws() {
    let is_heartbeat = |asked: &[Effect]| matches!(asked, [Effect::Publish { .. }]);
    let recovering = Play::in_group().tell(won()).wait();
    assert!(is_heartbeat(&recovering.asked));
    let recovering_at = recovering.now;
    let play = recovering.wait();
    assert!(is_heartbeat(&play.asked));
    let pause = play.waited(&recovering_at);
    assert!(Duration::from_millis(900) <= pause && pause <= Duration::from_millis(1_100));
    assert_eq!(Play::in_group().member.next_deadline(), None);
    let lost = Play::in_group().all([won(), lost()]);
    assert_eq!(lost.member.next_deadline(), None);
}
