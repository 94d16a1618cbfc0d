//! The transition for each outcome.

use super::super::manual_renewal::{ManualRenewal, manual_renewal};
use super::super::portal::binding;
use super::*;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_token_client::quirks::{GrantType, Rotation};
use refreshd_token_client::samples::profile;
use refreshd_token_client::token::{Credential, Details, Generation, Validity};
use refreshd_token_client::token_life::{TokenLife, TokenLives};

const HOUR: Duration = Duration::from_secs(3600);

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + secs)
}

fn acme() -> PortalName {
    PortalName::parse("acme").unwrap()
}

/// Issued at 0, with a lifetime of an hour.
fn grant(phase: Phase) -> Grant {
    Grant {
        generation: Generation(7),
        tokens: Tokens {
            access: Some(Access {
                token: AccessToken::new("old-access").unwrap(),
                token_type: "Bearer".into(),
                issued_at: at(0),
                expires_at: at(3600),
            }),
            credential: Credential::Refresh(RefreshToken::new("old-refresh").unwrap()),
            details: Details {
                endpoint: Some("https://acme.bitrix24.com/rest/".into()),
                ..Details::default()
            },
            validity: Validity::default(),
        },
        status: GrantStatus {
            phase,
            renew_at: Some(at(1400)),
            next_attempt_at: Some(at(1400)),
        },
        renewed_at: at(0),
        bound_to: binding("bitrix24", "local.1"),
        token_url: "https://oauth.bitrix.info/oauth/token/".into(),
        identity: Some("m1".into()),
        notified: Vec::new(),
        claim: None,
        tried_at: None,
    }
}

fn refresh_of(renewed: &Renewed) -> &str {
    renewed.tokens.credential.refresh().unwrap().expose()
}

fn granted(refresh: Option<&str>) -> GrantedTokens {
    GrantedTokens {
        access: AccessToken::new("new-access").unwrap(),
        refresh: refresh.and_then(RefreshToken::new),
        odd_refresh: None,
        token_type: "Bearer".into(),
        lives: TokenLives::reported(HOUR),
        identity: Some("m1".into()),
        server: None,
        details: Details::default(),
    }
}

fn after(grant: &Grant, attempt: Attempt, now: Timestamp) -> Transition {
    let profile = profile();
    let rules = RenewalRules {
        profile: &profile,
        every: profile.renew_every,
    };
    apply_outcome(
        &acme(),
        grant,
        rules,
        attempt,
        AttemptTimes {
            sent_at: now - Duration::from_secs(2),
            now,
        },
        0.5,
    )
}

fn renewed(grant: &Grant, granted: GrantedTokens) -> Renewed {
    match after(
        grant,
        Attempt::Answered(Verdict::Granted(Box::new(granted))),
        at(1402),
    ) {
        Transition::Renewed(renewed) => *renewed,
        other => panic!("{other:?}"),
    }
}

fn kept(grant: &Grant, class: Class, now: Timestamp) -> GrantStatus {
    let refusal = Refusal {
        problem: Problem {
            code: Some("CODE".into()),
            ..Problem::new(class, "words".into())
        },
        retry_after: None,
        assumed: false,
    };
    match after(grant, Attempt::Answered(Verdict::Refused(refusal)), now) {
        Transition::Kept(status) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_pair_counts_from_when_the_request_left() {
    let renewed = renewed(&grant(Phase::Fresh), granted(Some("new-refresh")));
    let access = renewed.tokens.access.clone().unwrap();
    assert_eq!((access.issued_at, access.expires_at), (at(1400), at(5000)));
    assert_eq!(refresh_of(&renewed), "new-refresh");
    let due = renewed
        .status
        .next_attempt_at
        .unwrap()
        .since(at(1400))
        .as_secs();
    assert!((1350..=1500).contains(&due), "due after {due} s");
}

#[test]
fn a_missing_refresh_token_keeps_the_old_one() {
    assert_eq!(
        refresh_of(&renewed(&grant(Phase::Fresh), granted(None))),
        "old-refresh"
    );
}

#[test]
fn another_portals_pair_is_kept_aside() {
    let foreign = GrantedTokens {
        identity: Some("m2".into()),
        ..granted(Some("theirs"))
    };
    let transition = after(
        &grant(Phase::Fresh),
        Attempt::Answered(Verdict::Granted(Box::new(foreign))),
        at(1402),
    );
    let Transition::Foreign { status, granted } = transition else {
        panic!("{transition:?}")
    };
    assert!(
        matches!(status.phase, Phase::NeedsAuthorization { .. })
            && status.next_attempt_at.is_none()
    );
    assert_eq!(granted.refresh.unwrap().expose(), "theirs");
}

#[test]
fn a_renamed_portal_is_accepted_and_reported() {
    let details = Details {
        endpoint: Some("https://new.bitrix24.com/rest/".into()),
        ..Details::default()
    };
    let renewed = renewed(
        &grant(Phase::Fresh),
        GrantedTokens {
            details,
            ..granted(Some("r"))
        },
    );
    assert_eq!(
        renewed.renamed_from.as_deref(),
        Some("https://acme.bitrix24.com/rest/")
    );
}

#[test]
fn the_next_server_is_taken_from_the_reply_only_if_it_is_on_the_list() {
    let to = |server: &str| {
        renewed(
            &grant(Phase::Fresh),
            GrantedTokens {
                server: Some(server.into()),
                ..granted(Some("r"))
            },
        )
        .token_url
    };
    let moved = to("https://oauth.bitrix24.tech/rest/");
    assert_eq!(
        moved.as_deref(),
        Some("https://oauth.bitrix24.tech/oauth/token/")
    );
    assert_eq!(to("https://evil.example/rest/"), None);
    assert_eq!(
        to("https://oauth.bitrix.info/rest/"),
        None,
        "where it goes already"
    );
}

#[test]
fn quiet_failures_back_off_and_count() {
    let first = kept(&grant(Phase::Fresh), Class::Transient, at(1402));
    assert!(matches!(first.phase, Phase::Retrying { attempt: 1, .. }));
    let second = kept(&grant(first.phase), Class::NotSent, at(1410));
    let Phase::Retrying {
        attempt: 2, since, ..
    } = second.phase
    else {
        panic!("{second:?}")
    };
    assert_eq!(since, at(1402));
    assert_eq!(
        second.next_attempt_at,
        Some(at(1410) + Duration::from_secs(5))
    );
}

#[test]
fn what_only_a_person_can_mend_stops_or_slows_the_sending() {
    let fresh = grant(Phase::Fresh);
    for (class, wait) in [
        (Class::Gone, None),
        (Class::Blocked, Some(3600)),
        (Class::ClientRejected, Some(300)),
    ] {
        let status = kept(&fresh, class, at(1402));
        assert!(status.phase.needs_person(), "{class:?}");
        assert_eq!(
            status.next_attempt_at,
            wait.map(|wait| at(1402 + wait)),
            "{class:?}"
        );
    }
    let blocked = Phase::Blocked {
        attempt: 24,
        since: at(0),
        problem: Problem::new(Class::Blocked, String::new()),
    };
    assert_eq!(
        kept(&grant(blocked), Class::Blocked, at(1402)).next_attempt_at,
        Some(at(1402 + 86_400)),
        "daily after a day"
    );
}

#[test]
fn a_lost_reply_is_in_doubt_until_the_server_says_yes_or_no() {
    let Transition::Kept(lost) = after(
        &grant(Phase::Fresh),
        Attempt::InDoubt("time-out".into()),
        at(1430),
    ) else {
        panic!("kept")
    };
    assert!(matches!(lost.phase, Phase::InDoubt { attempt: 1, .. }));
    assert_eq!(
        lost.next_attempt_at,
        Some(at(1430) + MIN_WAIT),
        "replayed at once"
    );

    let down = kept(&grant(lost.phase), Class::Transient, at(1435));
    assert!(
        matches!(down.phase, Phase::InDoubt { attempt: 2, .. }),
        "a 500 settles nothing: {down:?}"
    );

    let no = kept(&grant(down.phase), Class::NeedsAuthorization, at(1450));
    assert!(
        matches!(
            no.phase,
            Phase::NeedsAuthorization {
                while_in_doubt: true,
                ..
            }
        ),
        "{no:?}"
    );
    assert!(
        no.next_attempt_at.is_some_and(|again| again > at(1450)),
        "asked again by itself"
    );

    let again = kept(&grant(no.phase), Class::NeedsAuthorization, at(1500));
    assert!(
        matches!(
            again.phase,
            Phase::NeedsAuthorization {
                while_in_doubt: true,
                ..
            }
        ),
        "by hand: {again:?}"
    );
    let dead = kept(&grant(Phase::Fresh), Class::NeedsAuthorization, at(1450));
    assert!(
        matches!(
            dead.phase,
            Phase::NeedsAuthorization {
                while_in_doubt: false,
                ..
            }
        ),
        "{dead:?}"
    );
}

#[test]
fn a_late_replay_leaves_people_the_life_of_the_access_token() {
    let profile = Profile {
        replay: Replay::Late,
        ..profile()
    };
    let rules = RenewalRules {
        profile: &profile,
        every: profile.renew_every,
    };
    let times = AttemptTimes {
        sent_at: at(1400),
        now: at(1430),
    };
    let transition = apply_outcome(
        &acme(),
        &grant(Phase::Fresh),
        rules,
        Attempt::InDoubt("reset".into()),
        times,
        0.5,
    );
    let Transition::Kept(status) = transition else {
        panic!("{transition:?}")
    };
    assert_eq!(status.next_attempt_at, Some(at(3240)));
}

#[test]
fn too_early_waits_for_the_end_of_the_token_without_an_incident() {
    let status = kept(&grant(Phase::Fresh), Class::TooEarly, at(1402));
    assert_eq!(status.phase, Phase::Fresh);
    assert_eq!(status.next_attempt_at, Some(at(3600)));
}

#[test]
fn retry_after_is_honoured() {
    let refusal = Refusal {
        problem: Problem::new(Class::Transient, String::new()),
        retry_after: Some(Duration::from_secs(120)),
        assumed: false,
    };
    let transition = after(
        &grant(Phase::Fresh),
        Attempt::Answered(Verdict::Refused(refusal)),
        at(1402),
    );
    let Transition::Kept(status) = transition else {
        panic!("{transition:?}")
    };
    assert_eq!(status.next_attempt_at, Some(at(1522)));
}

#[test]
fn an_operators_loop_renews_once_in_a_tenth_of_the_life_and_retries_every_few_seconds() {
    let mut fresh = grant(Phase::Fresh);
    assert_eq!(
        manual_renewal(&fresh, at(100)),
        ManualRenewal::From(at(100)),
        "what was accepted and not tried yet is due"
    );
    fresh.tried_at = Some(at(0));
    assert_eq!(
        manual_renewal(&fresh, at(100)),
        ManualRenewal::FreshUntil(at(360))
    );
    assert_eq!(
        manual_renewal(&fresh, at(360)),
        ManualRenewal::From(at(360))
    );
    let mut failing = grant(kept(&fresh, Class::Transient, at(100)).phase);
    failing.tried_at = Some(at(100));
    assert_eq!(
        manual_renewal(&failing, at(102)),
        ManualRenewal::From(at(105)),
        "a failing one is tried soon, not hammered"
    );
    assert_eq!(
        manual_renewal(&failing, at(200)),
        ManualRenewal::From(at(200))
    );
}

#[test]
fn where_nothing_can_be_lost_nothing_is_in_doubt() {
    let lost = |profile: &Profile| {
        let rules = RenewalRules {
            profile,
            every: profile.renew_every,
        };
        let attempt = Attempt::InDoubt("no reply".into());
        match apply_outcome(
            &acme(),
            &grant(Phase::Fresh),
            rules,
            attempt,
            AttemptTimes {
                sent_at: at(1),
                now: at(2),
            },
            0.5,
        ) {
            Transition::Kept(status) => status.phase.kind().as_str(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(lost(&profile()), "in-doubt");
    assert_eq!(
        lost(&Profile {
            rotation: Rotation::Never,
            ..profile()
        }),
        "retrying"
    );
    assert_eq!(
        lost(&Profile {
            start: GrantType::ClientCredentials,
            ..profile()
        }),
        "retrying"
    );
}

#[test]
fn a_late_replay_is_not_put_off_beyond_the_servers_grace() {
    let replay_at = |grace| {
        let profile = Profile {
            replay: Replay::Late,
            grace,
            ..profile()
        };
        let rules = RenewalRules {
            profile: &profile,
            every: profile.renew_every,
        };
        let attempt = Attempt::InDoubt("no reply".into());
        match apply_outcome(
            &acme(),
            &grant(Phase::Fresh),
            rules,
            attempt,
            AttemptTimes {
                sent_at: at(1),
                now: at(2),
            },
            0.5,
        ) {
            Transition::Kept(status) => status.next_attempt_at.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(replay_at(None), at(3240), "a tenth of the life is left");
    assert_eq!(replay_at(Some(Duration::from_secs(600))), at(302));
}

#[test]
fn the_life_of_a_pair_that_comes_again_counts_from_the_request_whose_reply_was_lost() {
    let issued_at = |grace, answered: i64| {
        let profile = Profile { grace, ..profile() };
        let rules = RenewalRules {
            profile: &profile,
            every: profile.renew_every,
        };
        let transition = |grant: &Grant, attempt, sent_at, now| {
            apply_outcome(
                &acme(),
                grant,
                rules,
                attempt,
                AttemptTimes {
                    sent_at: at(sent_at),
                    now: at(now),
                },
                0.5,
            )
        };
        let mut lost = grant(Phase::Fresh);
        for (sent_at, now) in [(1400, 1430), (1435, 1465)] {
            let Transition::Kept(status) =
                transition(&lost, Attempt::InDoubt("no reply".into()), sent_at, now)
            else {
                panic!("it is in doubt")
            };
            lost.status = status;
        }
        let attempt = Attempt::Answered(Verdict::Granted(Box::new(granted(Some("new-refresh")))));
        match transition(&lost, attempt, answered, answered + 1) {
            Transition::Renewed(renewed) => {
                let access = renewed.tokens.access.unwrap();
                assert_eq!(access.lifetime(), HOUR);
                assert!(
                    renewed.status.renew_at.unwrap()
                        <= access.issued_at + Duration::from_secs(1500)
                );
                access.issued_at
            }
            other => panic!("{other:?}"),
        }
    };
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    assert_eq!(
        issued_at(minutes(10), 1470),
        at(1400),
        "it may be the pair of the first request"
    );
    assert_eq!(
        issued_at(minutes(1), 1470),
        at(1410),
        "that of a request within the grace at most"
    );
    assert_eq!(
        issued_at(None, 1470),
        at(1470),
        "no pair comes again: it is a new one"
    );
}

#[test]
fn what_a_reply_does_not_repeat_is_kept() {
    let mut before = grant(Phase::Fresh);
    before.tokens.details.scope = vec!["crm".into()];
    before.tokens.details.fields = [("device_id", "d1"), ("status", "F")]
        .map(|(name, value)| (name.to_owned(), serde_json::Value::from(value)))
        .into();
    let mut profile = profile();
    profile.request.redirect_fields = vec!["device_id".into()];
    let rules = RenewalRules {
        profile: &profile,
        every: profile.renew_every,
    };
    let verdict = Verdict::Granted(Box::new(granted(Some("new"))));
    let times = AttemptTimes {
        sent_at: at(1),
        now: at(2),
    };
    let Transition::Renewed(renewed) = apply_outcome(
        &acme(),
        &before,
        rules,
        Attempt::Answered(verdict),
        times,
        0.5,
    ) else {
        panic!("not renewed")
    };
    let Details {
        scope,
        endpoint,
        fields,
    } = renewed.tokens.details;
    assert_eq!(
        (scope, endpoint),
        (before.tokens.details.scope, before.tokens.details.endpoint)
    );
    assert_eq!(
        fields.keys().collect::<Vec<_>>(),
        ["device_id"],
        "a missing value is not invented"
    );
    assert_eq!(renewed.renamed_from, None);
}

#[test]
fn too_early_waits_for_the_providers_own_time() {
    let refusal = || Refusal {
        problem: Problem::new(Class::TooEarly, "token not expired".into()),
        retry_after: None,
        assumed: false,
    };
    let again_at = |earliest| {
        let profile = Profile {
            earliest,
            ..profile()
        };
        let rules = RenewalRules {
            profile: &profile,
            every: profile.renew_every,
        };
        let attempt = Attempt::Answered(Verdict::Refused(refusal()));
        match apply_outcome(
            &acme(),
            &grant(Phase::Fresh),
            rules,
            attempt,
            AttemptTimes {
                sent_at: at(1),
                now: at(2),
            },
            0.5,
        ) {
            Transition::Kept(GrantStatus {
                phase: Phase::Fresh,
                next_attempt_at,
                ..
            }) => next_attempt_at.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(again_at(NotBefore::Expiry), at(3600));
    assert_eq!(again_at(NotBefore::Age(Duration::from_secs(900))), at(900));
}

fn dead_since(secs: i64, while_in_doubt: bool) -> Phase {
    let problem = Problem::new(Class::NeedsAuthorization, "first".into());
    Phase::NeedsAuthorization {
        since: at(secs),
        problem,
        while_in_doubt,
    }
}

#[test]
fn a_dead_grant_is_asked_about_again_for_a_week_and_stays_dead_meanwhile() {
    let mut now = at(1450);
    let mut grant = grant(Phase::Fresh);
    let mut asked = Vec::new();
    loop {
        grant.status = kept(&grant, Class::NeedsAuthorization, now);
        assert_eq!(
            grant.status.phase.since(),
            Some(at(1450)),
            "it is one problem, however often it is seen"
        );
        assert!(grant.status.phase.needs_person());
        let Some(next) = grant.status.next_attempt_at else {
            break;
        };
        asked.push(next.since(at(1450)).as_secs());
        now = next;
    }
    assert!(
        (30..=34).contains(&asked[0]) && (330..=365).contains(&asked[1]),
        "{asked:?}"
    );
    let days = |from: u64, to: u64| {
        asked
            .iter()
            .filter(|secs| (from..to).contains(&(**secs / 86_400)))
            .count()
    };
    assert!(
        (20..=26).contains(&days(0, 1)),
        "hourly for a day: {asked:?}"
    );
    assert!((6..=8).contains(&days(1, 9)), "daily for a week: {asked:?}");
    assert!(*asked.last().unwrap() < 9 * 86_400, "and then not any more");
}

#[test]
fn a_server_that_asks_for_peace_gets_it_from_a_dead_grant_too() {
    let refusal = Refusal {
        problem: Problem::new(Class::NeedsAuthorization, String::new()),
        retry_after: Some(Duration::from_secs(7200)),
        assumed: false,
    };
    let transition = after(
        &grant(Phase::Fresh),
        Attempt::Answered(Verdict::Refused(refusal)),
        at(1402),
    );
    let Transition::Kept(status) = transition else {
        panic!("{transition:?}")
    };
    assert_eq!(status.next_attempt_at, Some(at(1402 + 7200)));
}

#[test]
fn where_reuse_revokes_and_where_the_token_is_spent_a_dead_grant_is_left_alone() {
    let late = Profile {
        replay: Replay::Late,
        ..profile()
    };
    let rules = RenewalRules {
        profile: &late,
        every: late.renew_every,
    };
    let refusal = |class| {
        let problem = Problem::new(class, "no".into());
        Attempt::Answered(Verdict::Refused(Refusal {
            problem,
            retry_after: None,
            assumed: false,
        }))
    };
    let times = AttemptTimes {
        sent_at: at(1400),
        now: at(1402),
    };
    for (phase, class) in [
        (Phase::Fresh, Class::NeedsAuthorization),
        (dead_since(1000, false), Class::NeedsAuthorization),
        (dead_since(1000, false), Class::Transient),
    ] {
        let transition = apply_outcome(&acme(), &grant(phase), rules, refusal(class), times, 0.5);
        let Transition::Kept(status) = transition else {
            panic!("{transition:?}")
        };
        assert_eq!(status.next_attempt_at, None, "{class:?}");
    }
    let old = Phase::OldState {
        since: at(0),
        problem: Problem::new(Class::NeedsAuthorization, String::new()),
    };
    assert_eq!(
        kept(&grant(old), Class::NeedsAuthorization, at(1402)).next_attempt_at,
        None
    );
}

#[test]
fn a_refused_client_is_tried_once_more_before_readers_are_without_a_token() {
    let mut status = kept(&grant(Phase::Fresh), Class::ClientRejected, at(1500));
    let mut tries = Vec::new();
    while tries.last().is_none_or(|last| *last < at(3600)) {
        let next = status.next_attempt_at.unwrap();
        tries.push(next);
        let before = Grant {
            status: status.clone(),
            ..grant(Phase::Fresh)
        };
        status = kept(&before, Class::ClientRejected, next);
    }
    // After 5, 10 and 20 minutes, and shortly before the expiry.
    let times = [1800, 2400, 3312, 4512];
    assert_eq!(tries[..3], times.map(at)[..3], "{tries:?}");
    assert!(tries[3] > at(3600), "and not again and again: {tries:?}");
}

#[test]
fn an_answer_that_says_nothing_of_a_dead_grant_leaves_it_dead() {
    for class in [
        Class::Transient,
        Class::NotSent,
        Class::Unknown,
        Class::ClientRejected,
        Class::Blocked,
    ] {
        let status = kept(&grant(dead_since(1450, false)), class, at(1480));
        let Phase::NeedsAuthorization {
            since,
            problem,
            while_in_doubt: false,
        } = &status.phase
        else {
            panic!("{class:?}: {status:?}")
        };
        assert_eq!(
            (*since, problem.detail.as_str()),
            (at(1450), "first"),
            "{class:?}"
        );
        assert!(
            status
                .next_attempt_at
                .is_some_and(|at| at > Timestamp::default()),
            "{class:?}"
        );
    }
    let gone = kept(&grant(dead_since(1450, false)), Class::Gone, at(1480));
    assert!(matches!(gone.phase, Phase::Gone { .. }), "{gone:?}");
}

#[test]
fn a_reply_about_a_dead_grant_that_was_lost_is_asked_for_at_once_and_once() {
    let lost = |phase| match after(&grant(phase), Attempt::InDoubt("reset".into()), at(1480)) {
        Transition::Kept(status) => status,
        other => panic!("{other:?}"),
    };
    let first = lost(dead_since(1450, false));
    assert_eq!(first.next_attempt_at, Some(at(1480) + MIN_WAIT));
    let second = lost(first.phase);
    assert!(second.next_attempt_at.unwrap() > at(1700), "{second:?}");
}

fn after_retry_after(grant: &Grant, secs: u64, now: Timestamp) -> GrantStatus {
    let refusal = Refusal {
        problem: Problem::new(Class::Transient, String::new()),
        retry_after: Some(Duration::from_secs(secs)),
        assumed: false,
    };
    match after(grant, Attempt::Answered(Verdict::Refused(refusal)), now) {
        Transition::Kept(status) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wish_beyond_the_tokens_end_is_obeyed_but_for_one_try_before_it() {
    for (asked, until) in [(86_400, 1402 + 86_400), (315_360_000, 1402 + 86_400)] {
        let first = after_retry_after(&grant(Phase::Fresh), asked, at(1402));
        assert_eq!(first.next_attempt_at, Some(at(3312)), "at 92 % of the life");
        let text = first.phase.problem().unwrap().text();
        let wish = format!(
            "oauth.bitrix.info asks to wait until {} (Retry-After)",
            at(until)
        );
        assert!(
            text.contains(&wish) && text.contains(&at(3600).to_string()),
            "{text}"
        );
        let second = after_retry_after(&grant(first.phase.clone()), asked, at(3312));
        assert_eq!(
            second.next_attempt_at,
            Some(at(3312 + 86_400)),
            "one try, and then as asked"
        );
        let manual = after_retry_after(&grant(first.phase), asked, at(2000));
        assert_eq!(
            manual.next_attempt_at,
            Some(at(3312)),
            "an operator's try is not that one"
        );
    }
    let late = after_retry_after(&grant(Phase::Fresh), 86_400, at(3500));
    assert_eq!(late.next_attempt_at, Some(at(3550)), "half of what remains");
    assert_eq!(
        after_retry_after(&grant(late.phase), 86_400, at(3550)).next_attempt_at,
        Some(at(3550 + 86_400))
    );
    let within = after_retry_after(&grant(Phase::Fresh), 120, at(1402));
    assert!(within.phase.problem().unwrap().asked_to_wait.is_none());
    let expired = after_retry_after(&grant(Phase::Fresh), 400, at(3700));
    assert_eq!(
        expired.next_attempt_at,
        Some(at(4100)),
        "no token is left to save"
    );
}

#[test]
fn what_an_answer_says_of_the_client() {
    let word = |class, assumed| {
        let problem = Problem::new(class, String::new());
        Attempt::Answered(Verdict::Refused(Refusal {
            problem,
            retry_after: None,
            assumed,
        }))
        .client_answer()
    };
    assert_eq!(
        word(Class::ClientRejected, false),
        Some(ClientAnswer::Refused)
    );
    assert_eq!(
        word(Class::NeedsAuthorization, false),
        Some(ClientAnswer::GrantRefused)
    );
    assert_eq!(
        word(Class::NeedsAuthorization, true),
        None,
        "the server did not report it"
    );
    assert_eq!(word(Class::Transient, false), None);
    assert_eq!(Attempt::InDoubt(String::new()).client_answer(), None);
}

fn lives(access: TokenLife) -> TokenLives {
    TokenLives {
        access,
        refresh: TokenLife::Absent,
        assumed: HOUR,
    }
}

fn again(grant: &Grant, renewed: &Renewed) -> Grant {
    Grant {
        tokens: renewed.tokens.clone(),
        status: renewed.status.clone(),
        renewed_at: renewed.tokens.access.as_ref().unwrap().issued_at,
        ..grant.clone()
    }
}

/// Applies this reply to the grant at this second.
fn renewed_at(grant: &Grant, granted: GrantedTokens, secs: i64) -> Renewed {
    let attempt = Attempt::Answered(Verdict::Granted(Box::new(granted)));
    let profile = profile();
    let rules = RenewalRules {
        profile: &profile,
        every: profile.renew_every,
    };
    let times = AttemptTimes {
        sent_at: at(secs),
        now: at(secs),
    };
    match apply_outcome(&acme(), grant, rules, attempt, times, 0.5) {
        Transition::Renewed(renewed) => *renewed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_token_that_had_ended_when_it_came_is_kept_and_asked_for_again_ever_more_slowly() {
    let mut grant = grant(Phase::Fresh);
    let mut now = 1400;
    let mut waits = Vec::new();
    for attempt in 1..=12 {
        let name = format!("a{attempt}");
        let access = AccessToken::new(&name).unwrap();
        let reply = GrantedTokens {
            access,
            lives: lives(TokenLife::Ended),
            ..granted(Some("r"))
        };
        let renewed = renewed_at(&grant, reply, now);
        let access = renewed.tokens.access.clone().unwrap();
        assert_eq!(
            (access.token.expose(), access.expires_at),
            (name.as_str(), at(now)),
            "published as it is"
        );
        let Phase::Retrying {
            attempt: counted,
            since,
            problem,
        } = &renewed.status.phase
        else {
            panic!("{:?}", renewed.status)
        };
        assert_eq!((*counted, *since), (attempt, at(1400)));
        assert_eq!(
            (problem.class, problem.text()),
            (
                Class::Unknown,
                "the server reports that its new token has expired already".into()
            )
        );
        let wait = renewed
            .status
            .next_attempt_at
            .unwrap()
            .since(at(now))
            .as_secs();
        waits.push(wait);
        grant = again(&grant, &renewed);
        now += i64::try_from(wait).unwrap();
    }
    assert_eq!(
        waits,
        [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360],
        "a tenth of the assumed hour at most"
    );
    // A failure in between does not fall back to the lifetime of zero.
    let after = kept(&grant, Class::Transient, at(now));
    assert!(
        after.next_attempt_at.unwrap().since(at(now)) > Duration::from_secs(30),
        "{after:?}"
    );
    let good = renewed_at(&grant, granted(Some("r")), now);
    assert_eq!(good.status.phase, Phase::Fresh);
}

#[test]
fn the_same_access_token_never_lives_longer_than_it_was_said_to() {
    let same = |life| GrantedTokens {
        access: AccessToken::new("a").unwrap(),
        lives: lives(life),
        ..granted(None)
    };
    let reported = |secs| TokenLife::Reported(Duration::from_secs(secs));
    let mut grant = again(
        &grant(Phase::Fresh),
        &renewed_at(&grant(Phase::Fresh), same(reported(12)), 0),
    );
    assert_eq!(grant.tokens.access.as_ref().unwrap().expires_at, at(12));
    for (now, life, ends) in [
        (8, reported(4), 12),
        (9, reported(3600), 12),
        (10, reported(1), 11),
        (10, TokenLife::Absent, 11),
    ] {
        let renewed = renewed_at(&grant, same(life.clone()), now);
        let access = renewed.tokens.access.clone().unwrap();
        assert_eq!(access.expires_at, at(ends), "{life:?} at {now}");
        assert_eq!(
            (access.issued_at, renewed.status.phase.clone()),
            (at(0), Phase::Fresh)
        );
        let next = renewed.status.next_attempt_at.unwrap();
        assert!(
            next >= at(now) + Duration::from_secs(1) && next <= at(ends + 1),
            "{life:?} at {now}: {next:?}"
        );
        grant = again(&grant, &renewed);
    }
    // After its expiry it is not a token, whatever lifetime the server states.
    let renewed = renewed_at(&grant, same(reported(3600)), 12);
    assert_eq!(renewed.tokens.access.clone().unwrap().expires_at, at(11));
    assert!(
        matches!(renewed.status.phase, Phase::Retrying { .. }),
        "{:?}",
        renewed.status
    );
    // Another token is one.
    assert_eq!(
        renewed_at(&grant, granted(None), 12)
            .tokens
            .access
            .unwrap()
            .expires_at,
        at(3612)
    );
}

#[test]
fn a_server_that_repeats_its_token_is_asked_a_few_times_in_a_life() {
    let same = |secs| GrantedTokens {
        access: AccessToken::new("a").unwrap(),
        lives: lives(TokenLife::Reported(Duration::from_secs(secs))),
        ..granted(None)
    };
    let mut grant = again(
        &grant(Phase::Fresh),
        &renewed_at(&grant(Phase::Fresh), same(3600), 0),
    );
    let mut asked = Vec::new();
    while let Some(next) = grant.status.next_attempt_at.filter(|next| *next < at(3600)) {
        let now = next.secs() - at(0).secs();
        asked.push(now);
        let left = 3600 - u64::try_from(now).unwrap();
        grant = again(
            &grant,
            &Renewed {
                ..renewed_at(&grant, same(left), now)
            },
        );
        grant.renewed_at = next;
    }
    assert!((2..=6).contains(&asked.len()), "{asked:?}");
    let last = grant.status.next_attempt_at.unwrap();
    assert!(last <= at(3602), "and at once after its end: {last:?}");
}

#[test]
fn a_refresh_token_that_ends_first_is_renewed_before_with_a_margin() {
    let reply = |access, refresh| GrantedTokens {
        lives: TokenLives {
            access: TokenLife::Reported(Duration::from_secs(access)),
            refresh: TokenLife::Reported(Duration::from_secs(refresh)),
            assumed: HOUR,
        },
        ..granted(Some("r"))
    };
    // Twelve seconds of forty, and no earlier than usual if it expires later.
    let renewed = renewed_at(&grant(Phase::Fresh), reply(40, 12), 0);
    let due = renewed
        .status
        .next_attempt_at
        .unwrap()
        .since(at(0))
        .as_millis();
    assert!((1_200..=10_800).contains(&due), "{due}");
    assert_eq!(renewed.tokens.validity.refresh.unwrap().at, at(12));
    let usual = renewed_at(&grant(Phase::Fresh), reply(3600, 86_400), 0)
        .status
        .next_attempt_at;
    assert_eq!(
        usual,
        renewed_at(&grant(Phase::Fresh), granted(Some("r")), 0)
            .status
            .next_attempt_at
    );
    // Once it is known that no renewal moves the end, there is one shortly before it, and none after.
    let mut grant = again(
        &grant(Phase::Fresh),
        &renewed_at(&grant(Phase::Fresh), reply(40, 100), 0),
    );
    let mut asked = Vec::new();
    while let Some(next) = grant.status.next_attempt_at.filter(|next| *next < at(100)) {
        let left = at(100).since(next);
        asked.push(next.since(at(0)).as_secs());
        let granted = GrantedTokens {
            access: AccessToken::new(&format!("a{}", asked.len())).unwrap(),
            lives: TokenLives {
                refresh: TokenLife::Reported(left),
                ..reply(40, 1).lives
            },
            ..granted(Some("r"))
        };
        let secs = next.secs() - at(0).secs();
        grant = again(&grant, &renewed_at(&grant, granted, secs));
    }
    assert!(
        (2..=4).contains(&asked.len()) && *asked.last().unwrap() > 85,
        "{asked:?}"
    );
}

#[test]
fn a_life_that_cannot_be_read_is_assumed_and_reported() {
    let renewed = renewed_at(
        &grant(Phase::Fresh),
        GrantedTokens {
            lives: lives(TokenLife::Unreadable("soon".into())),
            ..granted(None)
        },
        0,
    );
    assert_eq!(renewed.tokens.access.unwrap().expires_at, at(3600));
    assert!(renewed.tokens.validity.notice.unwrap().contains("\"soon\""));
    let good = renewed_at(&grant(Phase::Fresh), granted(None), 0);
    assert_eq!(good.tokens.validity.notice, None);
}
