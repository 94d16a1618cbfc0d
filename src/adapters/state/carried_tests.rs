//! Carried records are restored exactly, or not at all.

use std::collections::BTreeMap;

use super::*;
use crate::domain::record::{ClientVerdict, KeepNotified, RecordOutcome};
use refreshd_token_client::provider::Class;

fn time(secs: i64) -> Timestamp {
    Timestamp::from_millis(1_795_000_000_123 + secs * 1000)
}

fn tokens() -> Tokens {
    let fields = BTreeMap::from([(
        "member_id".to_owned(),
        serde_json::json!({"a": [1, null, "ä\n"]}),
    )]);
    Tokens {
        access: Some(Access {
            token: AccessToken::new("access-1").unwrap(),
            token_type: "Bearer".to_owned(),
            issued_at: time(0),
            expires_at: time(3600),
        }),
        credential: Credential::Refresh(RefreshToken::new("refresh-2").unwrap()),
        details: Details {
            scope: vec!["crm".to_owned()],
            endpoint: Some("https://acme.example/rest/".to_owned()),
            fields,
        },
        validity: Validity {
            refresh: Some(RefreshEnd {
                at: time(86_400),
                since: time(0),
                motion: Motion::Moves,
            }),
            notice: Some("odd".to_owned()),
        },
    }
}

fn renewed(phase: Phase) -> Renewed {
    Renewed {
        tokens: tokens(),
        status: GrantStatus {
            phase,
            renew_at: Some(time(1800)),
            next_attempt_at: None,
        },
        identity: Some("m-1".to_owned()),
        token_url: None,
        renamed_from: Some("https://old.example/rest/".to_owned()),
    }
}

fn record(renewed: Renewed) -> RenewalRecord {
    RenewalRecord {
        portal: PortalName::parse("acme").unwrap(),
        app: "crm".to_owned(),
        claim: (ClaimId(-41), time(-3)),
        outcome: RecordOutcome::Renewed(Box::new(renewed)),
        notified: vec!["overdue".to_owned()],
        keep_notified: KeepNotified::All,
        evaluate_at: None,
        now: time(1),
        client: ClientVerdict::Accepted,
        without_refresh: None,
        bought_by: Some(Fingerprint::of(b"kind")),
    }
}

fn sent() -> SentToken {
    SentToken {
        generation: Generation(7),
        token: Some(Fingerprint::of(b"refresh-1")),
    }
}

fn bytes() -> Vec<u8> {
    let record = record(renewed(Phase::Fresh));
    let RecordOutcome::Renewed(renewed) = &record.outcome else {
        unreachable!()
    };
    Unsaved::Renewal(&record, renewed, sent())
        .encode()
        .expose()
        .to_vec()
}

/// The same pair has the same text; secrets are blind in `Debug`, so they are compared separately.
fn assert_same(one: &Tokens, other: &Tokens) {
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
    let shown = |tokens: &Tokens| {
        let access = tokens
            .access
            .as_ref()
            .map(|access| access.token.expose().to_owned());
        (
            access,
            tokens
                .credential
                .refresh()
                .map(|token| token.expose().to_owned()),
        )
    };
    assert_eq!(shown(one), shown(other));
}

#[test]
fn the_pair_of_a_renewal_comes_back_as_it_was() {
    let problem = Problem::new(Class::NotSent, "it ended before it came".to_owned());
    let phases = [
        Phase::Fresh,
        Phase::Retrying {
            attempt: 3,
            since: time(-9),
            problem: problem.clone(),
        },
        Phase::NeedsAuthorization {
            since: time(-9),
            problem,
            while_in_doubt: true,
        },
    ];
    for phase in phases {
        let record = record(renewed(phase));
        let RecordOutcome::Renewed(before) = &record.outcome else {
            unreachable!()
        };
        let bytes = Unsaved::Renewal(&record, before, sent()).encode();
        let Carried { portal, load } = Carried::decode(bytes.expose()).unwrap();
        let Load::Renewal(
            CarriedPair {
                app,
                claim,
                renewed,
                bought_by,
                now,
            },
            was_sent,
        ) = load
        else {
            panic!("another kind")
        };
        assert_eq!(
            (portal, app, claim, was_sent),
            (record.portal, record.app, record.claim, sent())
        );
        assert_eq!((bought_by, now), (record.bought_by, record.now));
        assert_same(&before.tokens, &renewed.tokens);
        assert_eq!(format!("{before:?}"), format!("{renewed:?}"));
    }
}

#[test]
fn the_others_come_back_as_they_were() {
    let name = PortalName::parse("acme").unwrap();
    let load = |unsaved: Unsaved<'_>| {
        let carried = Carried::decode(unsaved.encode().expose()).unwrap();
        assert_eq!(carried.portal, name);
        carried.load
    };
    let outcome = CandidateOutcome::Proved(Box::new(renewed(Phase::Fresh)));
    let (app, claim) = ("crm".to_owned(), (ClaimId(5), time(0)));
    let candidate = RecordCandidate {
        portal: name.clone(),
        app,
        claim,
        outcome,
        now: time(1),
    };
    let Load::Candidate(pair) = load(Unsaved::of_candidate(&candidate).unwrap()) else {
        panic!("another kind")
    };
    assert_eq!((pair.claim, pair.now), (candidate.claim, candidate.now));
    assert_same(&pair.renewed.tokens, &tokens());

    let grant = NewGrant {
        portal: name.clone(),
        tokens: tokens(),
        identity: None,
        bound_to: Fingerprint::of(b"client"),
        token_url: "https://auth.example/token".to_owned(),
        status: renewed(Phase::Fresh).status,
        proven: Some("crm".to_owned()),
        now: time(2),
    };
    let none = SentToken {
        generation: Generation(0),
        token: None,
    };
    let Load::Grant(back, was_sent) = load(Unsaved::Grant(&grant, none)) else {
        panic!("another kind")
    };
    assert_eq!(
        (format!("{grant:?}"), none),
        (format!("{back:?}"), was_sent)
    );
    assert_same(&back.tokens, &tokens());

    let reply = UnreadableReply {
        at: time(0),
        answers: ReplyTo::Renewal(sent()),
        status: 200,
        content_type: Some("text/plain".to_owned()),
        content_encoding: None,
        whole: false,
        body: ReplyBody::new(vec![0, 255, b'\n', b'"']),
    };
    let Load::Reply(back) = load(Unsaved::Reply(&name, &reply)) else {
        panic!("another kind")
    };
    assert_eq!(back.body.expose(), reply.body.expose());
    assert_eq!(format!("{back:?}"), format!("{reply:?}"));

    let pair = TokenPair {
        access: None,
        refresh: RefreshToken::new("refresh-9"),
        identity: None,
    };
    let Load::Aside(back, at) = load(Unsaved::Aside(&name, &pair, time(4))) else {
        panic!("another kind")
    };
    assert_eq!(
        back.refresh.as_ref().map(|token| token.expose()),
        Some("refresh-9")
    );
    assert_eq!((at, back.access.is_none()), (time(4), true));
}

#[test]
fn a_byte_that_is_another_one_voids_all_of_it() {
    let good = bytes();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(
            Carried::decode(&bad).is_err(),
            "byte {at} of {}",
            good.len()
        );
    }
}

#[test]
fn what_is_cut_or_too_long_is_void() {
    let good = bytes();
    for length in 0..good.len() {
        assert!(
            Carried::decode(&good[..length]).is_err(),
            "{length} of {}",
            good.len()
        );
    }
    let mut long = good;
    long.push(b' ');
    assert_eq!(Carried::decode(&long).unwrap_err(), CopyDamage::Checksum);
}

#[test]
fn another_version_is_told_from_damage_and_from_what_is_not_ours() {
    let good = String::from_utf8(bytes()).unwrap();
    let other = good.replacen("refreshd-unsaved 1 ", "refreshd-unsaved 2 ", 1);
    assert_eq!(
        Carried::decode(other.as_bytes()).unwrap_err(),
        CopyDamage::Format(2)
    );
    for foreign in [
        "",
        "\n",
        "hello\n",
        "refreshd-unsaved\n{}",
        "refreshd-unsaved x y\n{}",
    ] {
        assert_eq!(
            Carried::decode(foreign.as_bytes()).unwrap_err(),
            CopyDamage::Foreign,
            "{foreign:?}"
        );
    }
    let nonsense = "{\"portal\": \"../x\", \"load\": {}}";
    let sum = STANDARD.encode(Fingerprint::of(nonsense.as_bytes()).bytes());
    let nonsense = format!("{MAGIC} {FORMAT} {sum}\n{nonsense}");
    assert_eq!(
        Carried::decode(nonsense.as_bytes()).unwrap_err(),
        CopyDamage::Unclear
    );
}
