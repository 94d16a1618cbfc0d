//! Data beside grants: unreadable replies, install events, metadata; a stop loses none of it.

use super::*;
use crate::domain::kept_reply::{ReplyTo, SentToken, UnreadableReply};
use refreshd_secrets::ReplyBody;

/// A response to the renewal of the present grant.
fn reply(grant: &Grant, body: &str) -> UnreadableReply {
    UnreadableReply {
        at: at(0),
        answers: ReplyTo::Renewal(SentToken::of(grant)),
        status: 200,
        content_type: Some("text/html".to_owned()),
        content_encoding: None,
        whole: false,
        body: ReplyBody::new(body.as_bytes().to_vec()),
    }
}

/// The end of a claimed renewal with an unreadable response; it is due again at `at(10)`.
fn unread(portal: &Portal, body: &str) -> RecordOutcome {
    let phase = Phase::InDoubt {
        attempt: 1,
        since: at(0),
        problem: problem(Class::InDoubt),
    };
    let status = GrantStatus {
        phase,
        renew_at: Some(at(0)),
        next_attempt_at: Some(at(10)),
    };
    let reply = reply(portal.grant.as_ref().unwrap(), body);
    RecordOutcome::Unread(status, Box::new(reply))
}

async fn bodies<E: Engine>(rig: &Rig<E>, portal: &str) -> Vec<String> {
    let kept = rig.state.kept_replies(name(portal)).await.unwrap();
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    kept.iter()
        .map(|kept| text(kept.reply.body.expose()))
        .collect()
}

pub async fn a_reply_that_could_not_be_read_is_kept_whole_until_a_renewal_succeeds<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "other"]).await;
    let claimed = rig.claim_by_name("acme").await;
    rig.record(&claimed, 1, unread(&claimed, "half a pair"))
        .await;
    let rig = rig.reopen().await;
    let kept = rig
        .state
        .kept_replies(name("acme"))
        .await
        .unwrap()
        .remove(0);
    let grant = rig.grant("acme").await;
    assert_eq!(kept.sent, SentToken::of(&grant));
    let UnreadableReply {
        at: sent_at,
        answers,
        status,
        content_type,
        content_encoding,
        whole,
        body,
    } = kept.reply;
    assert_eq!(
        (sent_at, answers, status, whole),
        (at(0), ReplyTo::Renewal(SentToken::of(&grant)), 200, false)
    );
    assert_eq!(
        (content_type.as_deref(), content_encoding, body.expose()),
        (Some("text/html"), None, b"half a pair".as_slice())
    );
    let counts = rig.state.kept_counts(None).await.unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["acme"]);
    assert_eq!((counts["acme"].count, counts["acme"].newest), (1, at(0)));
    let range = Some((name("b"), name("z")));
    assert!(rig.state.kept_counts(range).await.unwrap().is_empty());
    let claimed = rig.claim_by_name("acme").await;
    rig.record(&claimed, 11, renewed("r2", 11)).await;
    assert_eq!(bodies(&rig, "acme").await, [""; 0]);
}

pub async fn of_many_replies_the_first_and_the_newest_are_kept_and_each_once<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    for body in ["first", "first", "second", "third", "fourth"] {
        let claimed = rig.claim_by_name("acme").await;
        rig.record(&claimed, 1, unread(&claimed, body)).await;
    }
    assert_eq!(bodies(&rig, "acme").await, ["first", "third", "fourth"]);
    assert_eq!(rig.state.discard_replies(name("acme")).await.unwrap(), 3);
    assert_eq!(bodies(&rig, "acme").await, [""; 0]);
}

pub async fn a_kept_reply_gives_its_grant_only_to_the_grant_it_answers<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let claimed = rig.claim_by_name("acme").await;
    rig.record(&claimed, 1, unread(&claimed, "a pair")).await;
    let sent = SentToken::of(&rig.grant("acme").await);
    let recover = async || {
        let found = grant("acme", "found in it", HOUR);
        rig.state.recover(found, sent, true).await.unwrap()
    };
    let claimed = rig.claim_by_name("acme").await;
    assert_eq!(recover().await, RecoverOutcome::UnderWay);
    rig.record(&claimed, 2, unread(&claimed, "a pair")).await;
    assert_eq!(
        recover().await,
        RecoverOutcome::Stored(Generation(2)),
        "the answered grant is still there"
    );
    assert_eq!(refresh_of(&rig.grant("acme").await), "found in it");
    assert_eq!(bodies(&rig, "acme").await, [""; 0]);
    assert_eq!(recover().await, RecoverOutcome::MovedOn);
}

pub async fn install_events_wait_in_order_until_they_are_done<E: Engine>() {
    let rig = Rig::<E>::new().await;
    let event = |query: &str| NewEvent {
        app: "crm".to_owned(),
        query: query.to_owned(),
        body: vec![0, 255],
        source: Some("198.51.100.1".to_owned()),
        now: at(0),
    };
    let first = rig.state.store_event(event("a=1")).await.unwrap().unwrap();
    rig.state.store_event(event("b=2")).await.unwrap().unwrap();
    rig.state.store_event(event("c=3")).await.unwrap().unwrap();
    let rig = rig.reopen().await;
    rig.state.event_done(first).await.unwrap();
    let waiting = rig.state.waiting_events().await.unwrap();
    let found: Vec<_> = waiting
        .iter()
        .map(|event| (event.query.as_str(), event.body.as_slice()))
        .collect();
    assert_eq!(found, [("b=2", [0, 255].as_slice()), ("c=3", &[0, 255])]);
    assert_eq!(waiting[0].app, "crm");
    assert_eq!(waiting[0].source.as_deref(), Some("198.51.100.1"));
}

pub async fn metadata_is_kept_by_issuer_and_gives_apps_their_endpoint<E: Engine>() {
    let rig = Rig::<E>::new().await;
    let issuer = || "https://issuer.example".to_owned();
    assert_eq!(rig.state.metadata(issuer()).await.unwrap(), None);
    for (body, secs) in [(b"old".to_vec(), 1), (b"new".to_vec(), 2)] {
        let keep = rig.state.keep_metadata(issuer(), body, at(secs));
        keep.await.unwrap();
    }
    let known = Some((b"new".to_vec(), at(2)));
    assert_eq!(rig.state.metadata(issuer()).await.unwrap(), known);
    let mut unknown = configured("acme");
    unknown.token_url = String::new();
    rig.follow(vec![unknown]).await;
    let apps = vec![("crm".to_owned(), URL.to_owned())];
    rig.state.complete_apps(apps).await.unwrap();
    assert_eq!(rig.portal("acme").await.config_url.as_deref(), Some(URL));
}

pub async fn nothing_that_was_recorded_is_lost_over_a_stop<E: Engine>() {
    let rig = Rig::<E>::with(&["acme", "claimed", "doubtful"]).await;
    let claimed = rig.claim_by_name("acme").await;
    rig.record(&claimed, 1, renewed("r2", 1)).await;
    let claimed = rig.claim_by_name("doubtful").await;
    rig.record(&claimed, 1, unread(&claimed, "half a pair"))
        .await;
    rig.claim_by_name("claimed").await;
    rig.state.mark("self-test", at(5)).await.unwrap();
    let silence = rig.state.silence("acme".into(), Some(at(100)), at(0));
    silence.await.unwrap();
    let all = async |rig: &Rig<E>| {
        let portals = rig.state.first_portals(9).await.unwrap();
        let state = &rig.state;
        let beside = (
            state.silences().await.unwrap(),
            state.marked("self-test").await.unwrap(),
            state.kept_replies(name("doubtful")).await.unwrap(),
            state.census(at(0)).await.unwrap(),
        );
        format!("{portals:?} {beside:?}")
    };
    let before = all(&rig).await;
    let rig = rig.reopen().await;
    assert_eq!(all(&rig).await, before);
}
