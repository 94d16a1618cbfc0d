//! Incidents, queued alerts, silences and marks: across a restart, all or nothing.

use super::*;
use refreshd_alerting::AlertChanges;
use refreshd_alerting::Severity;
use refreshd_alerting::incidents::{Incident, MessageContext, ReachedStep};
use refreshd_alerting::message::{Message, MessageSubject};
use refreshd_alerting::outbox::QueuedAlert;

fn incident(key: &str, secs: i64) -> Incident {
    let view = MessageContext {
        key: key.to_owned(),
        subject: MessageSubject::Portal("acme".into()),
        reached: vec![ReachedStep {
            id: "person@gone".into(),
            severity: Severity::Critical,
            notify: None,
        }],
        reason: "it is gone".into(),
        action: "look".into(),
        since: at(secs),
        expires_at: None,
        portals: vec!["acme".into()],
        count: 1,
        few: false,
        lifetime: refreshd_alerting::incidents::finding::DEFAULT_LIFETIME,
    };
    let mut incident = Incident::new(&view, at(secs));
    incident
        .update(&view, &["ops".to_owned()], at(secs))
        .unwrap();
    incident
}

fn queued_alert(id: i64) -> QueuedAlert {
    QueuedAlert {
        id,
        channel: "ops".into(),
        first: id == 1,
        message: Message::test(at(id), "ops"),
    }
}

pub async fn what_was_told_and_what_waits_are_there_after_a_restart_in_order<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let keep = AlertChanges {
        incidents: vec![incident("portal/acme", 0), incident("portal/globex", 0)],
        queued_alerts: vec![queued_alert(2), queued_alert(1), queued_alert(3)],
        ..AlertChanges::default()
    };
    rig.state.store_alerts(keep).await.unwrap();
    let changed = incident("portal/acme", 60);
    let keep = AlertChanges {
        incidents: vec![changed.clone()],
        forgotten: vec!["portal/globex".into()],
        done: vec![2],
        ..AlertChanges::default()
    };
    rig.state.store_alerts(keep).await.unwrap();
    let rig = rig.reopen().await;
    let kept = rig.state.alerts().await.unwrap();
    assert_eq!(
        (kept.incidents, kept.queued_alerts, kept.unreadable),
        (vec![changed], vec![queued_alert(1), queued_alert(3)], 0)
    );
}

pub async fn alerts_are_stored_all_or_nothing<E: Engine>() {
    let rig = Rig::<E>::new().await;
    let keep = AlertChanges {
        incidents: vec![incident("portal/acme", 0), incident("portal/globex", 0)],
        queued_alerts: vec![queued_alert(1), queued_alert(2)],
        ..AlertChanges::default()
    };
    abandon(rig.state.store_alerts(keep)).await;
    let rig = rig.reopen().await;
    let kept = rig.state.alerts().await.unwrap();
    let stored = (kept.incidents.len(), kept.queued_alerts.len());
    assert!(stored == (2, 2) || stored == (0, 0), "{stored:?}");
}

pub async fn a_row_that_cannot_be_understood_costs_no_other<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    let keep = AlertChanges {
        incidents: vec![incident("portal/acme", 0), incident("portal/globex", 0)],
        queued_alerts: vec![queued_alert(1), queued_alert(2)],
        ..AlertChanges::default()
    };
    rig.state.store_alerts(keep).await.unwrap();
    rig.engine.spoil(Spoiled::Incident("portal/globex"));
    rig.engine.spoil(Spoiled::QueuedAlert(1));
    let kept = rig.state.alerts().await.unwrap();
    assert_eq!(
        (kept.incidents.len(), kept.queued_alerts, kept.unreadable),
        (1, vec![queued_alert(2)], 2)
    );
}

pub async fn silences_end_by_time_or_by_word_and_move_with_the_clock<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    rig.state
        .silence("acme".into(), Some(at(100)), at(0))
        .await
        .unwrap();
    rig.state
        .silence("globex".into(), Some(at(200)), at(0))
        .await
        .unwrap();
    rig.state.shift_times(-1000).await.unwrap();
    let silences = rig.state.silences().await.unwrap();
    assert_eq!(
        silences.into_iter().collect::<Vec<_>>(),
        [("acme".into(), at(99)), ("globex".into(), at(199))]
    );
    rig.state
        .silence("globex".into(), None, at(150))
        .await
        .unwrap();
    assert!(
        rig.state.silences().await.unwrap().is_empty(),
        "one was ended, the other is past"
    );
}

pub async fn troubled_portals_come_page_by_page_and_a_refused_app_is_named<E: Engine>() {
    let rig = Rig::<E>::with(&["a", "b", "c", "well"]).await;
    for portal in ["a", "b", "c"] {
        let grant = rig.grant(portal).await;
        let (seen, notified) = ((grant.status, Vec::new()), vec!["failed".to_owned()]);
        let notified = rig
            .state
            .set_notified(name(portal), grant.generation, seen, notified, None);
        assert!(notified.await.unwrap());
    }
    let pages = pages_of(rig.state.troubled().in_pages_of(2)).await;
    assert_eq!(pages, [vec!["a", "b"], vec!["c"]]);
    let mut alone = configured("alone");
    alone.settings.app = "other".to_owned();
    let apps = vec![app("crm", "1"), app("other", "1")];
    rig.state.reconcile(vec![alone], apps, at(0)).await.unwrap();
    rig.take("alone", "alone", HOUR).await;
    let claimed = rig
        .state
        .claim_one(name("alone"), at(7))
        .await
        .unwrap()
        .unwrap();
    let phase = Phase::ClientRejected {
        attempt: 1,
        since: at(7),
        problem: problem(Class::ClientRejected),
    };
    let status = GrantStatus {
        phase,
        renew_at: Some(at(0)),
        next_attempt_at: Some(at(307)),
    };
    let refused = ClientVerdict::Refused(at(307));
    rig.record_client(&claimed, 7, RecordOutcome::Kept(status), refused)
        .await;
    let refused = rig.state.refused_apps().await.unwrap();
    assert_eq!(
        refused.into_iter().collect::<Vec<_>>(),
        [("other".to_owned(), at(7))]
    );
}

pub async fn a_mark_is_kept<E: Engine>() {
    let rig = Rig::<E>::with(&["acme"]).await;
    assert_eq!(rig.state.marked("self-test").await.unwrap(), None);
    rig.state.mark("self-test", at(5)).await.unwrap();
    rig.state.mark("self-test", at(6)).await.unwrap();
    assert_eq!(rig.state.marked("self-test").await.unwrap(), Some(at(6)));
}
