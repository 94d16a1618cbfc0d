//! A refused client: one portal tries for all, and all go on together.

use super::*;

/// A refusal of the client by the claimed portal's renewal at `secs`; it may be tried again 300 s later.
async fn refuse(rig: &Rig, portal: &Portal, secs: i64) -> Recorded {
    let phase =
        Phase::ClientRejected { attempt: 1, since: at(secs), problem: problem(Class::ClientRejected) };
    let standing = Standing { phase, renew_at: Some(at(0)), act_at: Some(at(secs + 300)) };
    rig.record_client(portal, secs, RecordOutcome::Kept(standing), Rejection::Refused(at(secs + 300))).await
}

fn flipped(count: u64) -> Recorded {
    Recorded::Done { generation: Generation(count), client_changed: true, told_before: Vec::new() }
}

#[tokio::test]
async fn a_refused_client_is_left_alone_until_one_portal_may_try() {
    let rig = Rig::with(&["a", "b", "c"]).await;
    let mut other = configured("z");
    other.settings.app = "other".to_owned();
    let portals = ["a", "b", "c"].into_iter().map(configured).chain([other]).collect();
    rig.state.reconcile(portals, vec![app("crm", "1"), app("other", "1")], at(0)).await.unwrap();
    let first = rig.claim(0, 1).await.portals.remove(0);
    assert_eq!(refuse(&rig, &first, 0).await, flipped(1));
    rig.take("z", "z", 2 * HOUR).await;

    let claims = rig.claim(299, 9).await;
    assert_eq!(names(&claims.portals), ["z"], "another app's portal goes on");
    assert_eq!(claims.next, Some(at(300)));
    let probe = rig.claim_only(300).await;
    assert_eq!(rig.claimed(301).await, [""; 0], "a second one tries");
    assert_eq!(rig.claim(301, 9).await.next, Some(at(420)), "should the first never end");
    assert_eq!(refuse(&rig, &probe, 302).await, generation(1), "it is refused already");
    assert_eq!(rig.claimed(601).await, [""; 0]);
    let probe = rig.claim_only(602).await;
    let accepted = rig.record_client(&probe, 603, renewed("r2", 603), Rejection::Accepted).await;
    assert_eq!(accepted, flipped(2));
    let rest = rig.claimed(603).await;
    assert_eq!(rest.len(), 2, "those that were refused, and those that waited for them, go on: {rest:?}");
}

/// Its replay met the refusal; it would wait for its own time, as much as an hour.
#[tokio::test]
async fn acceptance_releases_a_grant_in_doubt_too() {
    let rig = Rig::with(&["a", "b"]).await;
    let both = rig.claim(0, 9).await.portals;
    let phase = Phase::InDoubt { attempt: 2, since: at(0), problem: problem(Class::ClientRejected) };
    let standing = Standing { phase, renew_at: Some(at(0)), act_at: Some(at(HOUR)) };
    rig.record_client(&both[0], 0, RecordOutcome::Kept(standing), Rejection::Refused(at(HOUR))).await;
    assert_eq!(rig.claimed(5).await, [""; 0]);
    rig.record_client(&both[1], 5, renewed("r2", 5), Rejection::Accepted).await;
    assert_eq!(rig.claimed(5).await, ["a"]);
}

/// The places that the others of a probing app took must not cost the due portals of other apps their turn.
#[tokio::test]
async fn a_probe_keeps_nobody_waiting() {
    let rig = Rig::with(&["a", "b", "c"]).await;
    let first = rig.claim(0, 1).await.portals.remove(0);
    refuse(&rig, &first, 0).await;
    let mut other = configured("z");
    other.settings.app = "other".to_owned();
    rig.follow(["a", "b", "c"].into_iter().map(configured).chain([other]).collect()).await;
    rig.take("z", "z", 2 * HOUR).await;
    let claims = rig.claim(300, 2).await;
    assert_eq!(claims.portals.len(), 1);
    assert_eq!(claims.next, Some(at(300)), "z is due, and nobody asks again");
    let claims = rig.claim(300, 2).await;
    assert_eq!((names(&claims.portals), claims.next), (vec!["z".to_owned()], Some(at(420))));
}

#[tokio::test]
async fn a_changed_client_is_tried_at_once() {
    let rig = Rig::with(&["a", "b"]).await;
    let first = rig.claim(0, 1).await.portals.remove(0);
    refuse(&rig, &first, 0).await;
    assert_eq!(rig.claimed(5).await, [""; 0]);
    let portals = || vec![configured("a"), configured("b")];
    rig.state.reconcile(portals(), vec![app("crm", "1")], at(5)).await.unwrap();
    assert_eq!(rig.claimed(5).await, [""; 0], "nothing has changed");
    rig.state.reconcile(portals(), vec![app("crm", "2")], at(5)).await.unwrap();
    let probe = rig.claim_only(5).await;
    rig.record_client(&probe, 6, renewed("r2", 6), Rejection::Accepted).await;
    assert_eq!(rig.claimed(6).await.len(), 1, "the refusal's wait is still kept");
}

/// Whatever they failed with may have been the client's.
#[tokio::test]
async fn a_changed_client_ends_the_waits_of_its_portals() {
    let rig = Rig::with(&["fresh", "retries"]).await;
    let portals = rig.claim(0, 9).await.portals;
    rig.record(&portals[0], 0, renewed("r2", 0)).await;
    rig.record(&portals[1], 0, retrying(900)).await;
    let both = vec![configured("fresh"), configured("retries")];
    rig.state.reconcile(both, vec![app("crm", "2")], at(5)).await.unwrap();
    assert_eq!(rig.claimed(5).await, ["retries"]);
}

#[tokio::test]
async fn an_operators_word_lets_a_refused_client_try() {
    let rig = Rig::with(&["a", "b"]).await;
    let first = rig.claim(0, 1).await.portals.remove(0);
    refuse(&rig, &first, 0).await;
    let asked = rig.state.request_renewal(first.name.clone(), at(10)).await.unwrap();
    assert_eq!(asked, RenewalRequest::Due(at(10)));
    assert_eq!(rig.claimed(10).await.len(), 1);
}
