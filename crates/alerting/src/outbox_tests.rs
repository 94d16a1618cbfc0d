//! Alerts queued for a channel that is down, and which of them still matter when it is back.

use super::super::message::MessageSubject;
use super::*;
use crate::Severity;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + seconds)
}

fn queued_alert(id: i64, key: &str, event: Event, seconds: i64) -> QueuedAlert {
    let message = Message {
        key: key.into(),
        event,
        severity: Severity::Warning,
        subject: MessageSubject::Daemon,
        since: at(0),
        ..Message::test(at(seconds), "ops")
    };
    QueuedAlert {
        id,
        channel: "ops".into(),
        first: event == Event::Opened,
        message,
    }
}

fn queue(queued_alerts: &[QueuedAlert]) -> AlertQueue {
    let mut queue = AlertQueue::default();
    queued_alerts
        .iter()
        .cloned()
        .for_each(|queued_alert| queue.push(queued_alert));
    queue
}

fn failed(retry_after: Option<u64>) -> Delivery {
    Delivery::Failed {
        why: "connection refused".into(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

fn delivered() -> Delivery {
    Delivery::Delivered("200".into())
}

fn ids(queued_alerts: &[QueuedAlert]) -> Vec<i64> {
    queued_alerts
        .iter()
        .map(|queued_alert| queued_alert.id)
        .collect()
}

#[test]
fn letters_leave_in_order_and_each_once() {
    let mut queue = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "b", Event::Opened, 0),
    ]);
    queue.push(queued_alert(2, "b", Event::Opened, 0));
    let mut left = Vec::new();
    while let Some(next) = queue.next(at(0)).cloned() {
        assert_eq!(
            queue.record_result(&delivered(), at(0)),
            Some(DeliveryEnd::Done(next.id))
        );
        left.push(next.id);
    }
    assert_eq!(left, [1, 2]);
}

#[test]
fn a_channel_that_fails_is_tried_at_growing_gaps_and_keeps_its_letters() {
    let mut queue = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "a", Event::Raised, 0),
    ]);
    let (mut now, mut gaps) = (0, Vec::new());
    for _ in 0..9 {
        let Some(DeliveryEnd::RetryAt(again)) = queue.record_result(&failed(None), at(now)) else {
            panic!("it was lost")
        };
        assert_eq!(queue.next(at(now)), None, "not at once");
        gaps.push(again.since(at(now)).as_secs());
        now = again.secs() - at(0).secs();
        assert_eq!(
            queue.next(at(now)).map(|queued_alert| queued_alert.id),
            Some(1)
        );
    }
    assert_eq!(gaps, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    queue.record_result(&delivered(), at(now));
    assert_eq!(
        queue.next(at(now)).map(|queued_alert| queued_alert.id),
        Some(2),
        "the next one at once"
    );
}

#[test]
fn a_receiver_that_asks_for_time_is_given_it() {
    let mut queue = queue(&[queued_alert(1, "a", Event::Opened, 0)]);
    assert_eq!(
        queue.record_result(&failed(Some(60)), at(0)),
        Some(DeliveryEnd::RetryAt(at(60)))
    );
}

#[test]
fn what_is_refused_does_not_block_what_comes_after() {
    let mut queue = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "b", Event::Opened, 0),
    ]);
    assert!(matches!(
        queue.record_result(&Delivery::Rejected("400".into()), at(0)),
        Some(DeliveryEnd::Done(_))
    ));
    assert_eq!(
        queue.next(at(0)).map(|queued_alert| queued_alert.id),
        Some(2)
    );
    assert_eq!(queue.broken(at(1000)), None, "the receiver is reachable");
}

#[test]
fn a_channel_is_broken_after_two_minutes_without_a_delivery() {
    let mut queue = queue(&[queued_alert(1, "a", Event::Opened, 0)]);
    queue.record_result(&failed(None), at(0));
    queue.record_result(&failed(None), at(100));
    assert_eq!(
        (queue.broken(at(119)), queue.breaks_at()),
        (None, Some(at(120)))
    );
    assert_eq!(queue.broken(at(120)).unwrap().since, at(0));
    queue.record_result(&delivered(), at(121));
    assert_eq!(queue.broken(at(1000)), None);
}

#[test]
fn what_was_down_for_a_while_hears_all_of_it_in_order() {
    let mut queue = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "a", Event::Raised, 100),
        queued_alert(3, "a", Event::Resolved, 200),
    ]);
    assert_eq!(queue.remove_stale(at(800)), []);
    assert_eq!(queue.len(), 3);
}

#[test]
fn nobody_is_woken_for_what_is_long_over() {
    let mut unheard = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "b", Event::Opened, 0),
        queued_alert(3, "a", Event::Raised, 100),
        queued_alert(4, "a", Event::Resolved, 200),
    ]);
    assert_eq!(ids(&unheard.remove_stale(at(1200))), [1, 3, 4]);
    assert_eq!(
        unheard.next(at(1200)).map(|queued_alert| queued_alert.id),
        Some(2),
        "that one is not over"
    );
    // A channel that received the opening receives the resolution, however late.
    let mut received = queue(&[
        queued_alert(3, "a", Event::Raised, 100),
        queued_alert(4, "a", Event::Resolved, 200),
    ]);
    assert_eq!(ids(&received.remove_stale(at(90_000))), [3]);
    assert_eq!(
        received
            .next(at(90_000))
            .map(|queued_alert| queued_alert.id),
        Some(4)
    );
}

/// Found by a simulated month: the resolution was dropped, the opening was delivered a minute later.
#[test]
fn nobody_hears_of_a_beginning_without_its_end() {
    let queued_alerts = [
        queued_alert(1, "a", Event::Opened, 600),
        queued_alert(2, "a", Event::Resolved, 700),
    ];
    for now in (700..3000).step_by(10) {
        let mut queue = queue(&queued_alerts);
        queue.remove_stale(at(now));
        assert!([0, 2].contains(&queue.len()), "at {now}: {queue:?}");
    }
}

#[test]
fn what_is_left_of_a_story_begins_anew() {
    let mut queue = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "a", Event::Raised, 3600),
    ]);
    assert_eq!(ids(&queue.remove_stale(at(86_400))), [1]);
    assert!(queue.next(at(86_400)).unwrap().first);
}

#[test]
fn repetitions_that_were_overtaken_and_what_is_a_day_old_go() {
    let mut queue = queue(&[
        queued_alert(1, "a", Event::Opened, 0),
        queued_alert(2, "a", Event::Repeated, 3600),
        queued_alert(3, "a", Event::Repeated, 10_800),
    ]);
    assert_eq!(ids(&queue.remove_stale(at(11_000))), [2]);
    assert_eq!(ids(&queue.remove_stale(at(86_400))), [1]);
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_a_channel() {
    let mut queue = queue(&[queued_alert(1, "a", Event::Opened, 0)]);
    queue.record_result(&failed(None), at(1_000_000));
    assert_eq!(
        queue.next(at(0)).map(|queued_alert| queued_alert.id),
        Some(1)
    );
}
