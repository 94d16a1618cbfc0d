//! Disputed installs: one per portal waits for the operator, and its application token replaces the present one with its grant.

use super::*;
use crate::domain::candidate::Origin;
use crate::domain::dispute::Dispute;
use crate::domain::import::ImportedGrant;
use crate::domain::install::{EventKind, InstallContext, InstallRule, NameRule, Users};
use crate::domain::token_format::TokenFormat;
use crate::domain::token_owner::TokenOwner;
use refreshd_secrets::{ApplicationToken, RefreshToken};
use refreshd_token_client::samples::profile;

const PORTAL: &str = "acme.example";
const EMPLOYEE: &str = "67";

/// A portal whose first event was an employee's, with an own application token.
async fn squatted<E: Engine>() -> Rig<E> {
    let rig = Rig::<E>::new().await;
    let rule = InstallRule {
        path: "/install/crm".to_owned(),
        names: NameRule::parse("{domain}").unwrap(),
        users: Users::Installer,
        formats: vec![TokenFormat::Json],
        renew_every: None,
    };
    let terms = InstallContext {
        app: "crm".to_owned(),
        rule,
        profile: Arc::new(profile()),
        binding: binding("example", "client"),
    };
    let owner = TokenOwner {
        member_id: "acme".to_owned(),
        user_id: EMPLOYEE.to_owned(),
        host: PORTAL.to_owned(),
        endpoint: format!("https://{PORTAL}/rest/"),
        status: None,
    };
    let imported = ImportedGrant {
        tokens: tokens("e1", 0, HOUR),
        identity: None,
        server: None,
        client_id: None,
        host: None,
    };
    let install = InstalledGrant {
        terms,
        occasion: EventKind::Installed,
        owner,
        imported,
        application_token: ApplicationToken::new("planted"),
        sent_at: Some(at(0)),
        over: OverGrant::Report,
        now: at(0),
    };
    assert!(matches!(
        rig.state.install(install).await.unwrap(),
        InstallOutcome::Stored { .. }
    ));
    rig
}

fn newcomer(user: &str, occasion: EventKind, is_admin: Option<bool>, refresh: &str) -> NewDispute {
    NewDispute {
        newcomer: Dispute {
            portal: name(PORTAL),
            app: "crm".to_owned(),
            user: user.to_owned(),
            holder: None,
            occasion,
            is_admin,
            holder_is_admin: None,
            since: at(1),
            is_accepted: false,
        },
        binding: binding("example", "client"),
        member_id: "acme".to_owned(),
        refresh: RefreshToken::new(refresh).unwrap(),
        details: tokens(refresh, 0, HOUR).details,
        server: None,
        application_token: (occasion == EventKind::Installed)
            .then(|| ApplicationToken::new(&format!("proof of {user}")))
            .flatten(),
        now: at(1),
    }
}

fn removal(token: &str, sent: i64) -> Uninstall {
    Uninstall {
        app: "crm".to_owned(),
        binding: binding("example", "client"),
        member_id: "acme".to_owned(),
        application_token: ApplicationToken::new(token),
        sent_at: Some(at(sent)),
        now: at(sent),
        problem: problem(Class::Gone),
    }
}

impl<E: Engine> Rig<E> {
    async fn note(
        &self,
        user: &str,
        occasion: EventKind,
        is_admin: Option<bool>,
        refresh: &str,
    ) -> RecordedDispute {
        self.state
            .record_dispute(newcomer(user, occasion, is_admin, refresh))
            .await
            .unwrap()
    }

    /// User of the waiting install, and its refresh token.
    async fn waiting(&self) -> Option<(String, String)> {
        let found = self.state.dispute_of(name(PORTAL)).await.unwrap()?;
        Some((found.newcomer.user, found.refresh.expose().to_owned()))
    }
}

fn of(user: &str, refresh: &str) -> Option<(String, String)> {
    Some((user.to_owned(), refresh.to_owned()))
}

pub async fn one_waits_and_only_a_better_claim_displaces_it<E: Engine>() {
    use EventKind::{Installed, Opened};
    let rig = squatted::<E>().await;
    assert!(
        matches!(rig.note("5", Installed, Some(false), "f1").await, RecordedDispute::New(new) if new.holder.as_deref() == Some(EMPLOYEE))
    );
    assert_eq!(
        rig.note("6", Installed, Some(false), "g1").await,
        RecordedDispute::Outranked
    );
    assert!(matches!(
        rig.note("1", Opened, Some(true), "a1").await,
        RecordedDispute::New(_)
    ));
    assert_eq!(
        rig.note("5", Installed, None, "f2").await,
        RecordedDispute::Outranked
    );
    // The newest grant of that user counts, and the data of the event stays.
    assert_eq!(
        rig.note("1", Installed, Some(true), "a2").await,
        RecordedDispute::Known
    );
    assert_eq!(
        rig.note("1", Opened, None, "a3").await,
        RecordedDispute::Known
    );
    assert_eq!(rig.waiting().await, of("1", "a3"));
    assert_eq!(rig.state.open_disputes().await.unwrap().len(), 1);
    assert_eq!(
        rig.note(EMPLOYEE, Installed, None, "e2").await,
        RecordedDispute::Moot,
        "it is his grant"
    );
    assert_eq!(
        rig.note("2", Installed, Some(true), "e1").await,
        RecordedDispute::Moot,
        "it came before"
    );
    let rig = rig.reopen().await;
    assert_eq!(
        rig.waiting().await,
        of("1", "a3"),
        "it outlives the process"
    );
    assert!(rig.state.forget(name(PORTAL)).await.unwrap());
    assert_eq!(rig.state.open_disputes().await.unwrap(), []);
}

pub async fn whoever_was_refused_is_not_told_of_again_and_his_grant_is_not_kept<E: Engine>() {
    let rig = squatted::<E>().await;
    rig.note("1", EventKind::Installed, None, "a1").await;
    assert_eq!(
        rig.state.uninstall(removal("planted", 5)).await.unwrap(),
        Uninstalled::Disputed
    );
    assert!(
        !rig.state
            .refuse_claimant(name(PORTAL), "2".to_owned(), at(2))
            .await
            .unwrap()
    );
    assert!(
        rig.state
            .refuse_claimant(name(PORTAL), "1".to_owned(), at(2))
            .await
            .unwrap()
    );
    assert_eq!(rig.waiting().await, None);
    assert_eq!(
        rig.note("1", EventKind::Installed, Some(true), "a2").await,
        RecordedDispute::Refused
    );
    assert!(
        !rig.state
            .accept_claimant(name(PORTAL), "1".to_owned(), at(2))
            .await
            .unwrap()
    );
    assert!(matches!(
        rig.note("2", EventKind::Installed, None, "b1").await,
        RecordedDispute::New(_)
    ));
    for user in 3..60 {
        rig.note(
            &user.to_string(),
            EventKind::Installed,
            Some(true),
            &format!("c{user}"),
        )
        .await;
        rig.state
            .refuse_claimant(name(PORTAL), user.to_string(), at(user))
            .await
            .unwrap();
    }
    assert_eq!(
        rig.note("59", EventKind::Installed, None, "d").await,
        RecordedDispute::Refused
    );
    assert!(
        matches!(
            rig.note("3", EventKind::Installed, None, "d").await,
            RecordedDispute::New(_)
        ),
        "too long ago"
    );
}

pub async fn the_proof_changes_with_the_grant_and_not_before<E: Engine>() {
    for refused in [false, true] {
        let rig = squatted::<E>().await;
        rig.note("1", EventKind::Installed, Some(true), "a1").await;
        assert!(
            rig.state
                .accept_claimant(name(PORTAL), "1".to_owned(), at(3))
                .await
                .unwrap()
        );
        let is_accepted = async || rig.state.open_disputes().await.unwrap()[0].is_accepted;
        assert!(!is_accepted().await, "nothing is being proved yet");
        let tokens = Tokens {
            access: None,
            ..tokens("a1", 0, HOUR)
        };
        let grant = NewGrant {
            tokens,
            identity: Some("acme".to_owned()),
            ..grant(PORTAL, "a1", HOUR)
        };
        let offer = Offer {
            grant,
            origin: Origin::Install,
            replaces: true,
            event: None,
        };
        assert_eq!(rig.state.offer(offer).await.unwrap(), Offered::Stored);
        assert!(is_accepted().await);
        assert_eq!(
            rig.note("2", EventKind::Installed, Some(true), "b1").await,
            RecordedDispute::Known
        );
        assert_eq!(
            rig.state.uninstall(removal("proof of 1", 5)).await.unwrap(),
            Uninstalled::Disputed
        );
        let rig = rig.reopen().await;
        let candidate = rig
            .state
            .claim_candidates(at(6), 1, Vec::new())
            .await
            .unwrap()
            .remove(0);
        let outcome = match renewed("a2", 6) {
            RecordOutcome::Renewed(_) if refused => CandidateOutcome::Refused,
            RecordOutcome::Renewed(renewed) => CandidateOutcome::Proved(renewed),
            other => panic!("{other:?}"),
        };
        let record = RecordCandidate {
            portal: name(PORTAL),
            app: "crm".to_owned(),
            claim: candidate.portal.grant.as_ref().unwrap().claim.unwrap(),
            outcome,
            now: at(6),
        };
        rig.state.record_candidate(Arc::new(record)).await.unwrap();
        assert_eq!(rig.waiting().await, None);
        let of_dispute = rig
            .state
            .uninstall(removal("proof of 1", 10))
            .await
            .unwrap();
        let of_first = rig.state.uninstall(removal("planted", 11)).await.unwrap();
        if refused {
            assert_eq!(refresh_of(&rig.grant(PORTAL).await), "e1");
            assert_eq!(
                (of_dispute, of_first),
                (Uninstalled::Disputed, Uninstalled::Disputed)
            );
        } else {
            assert_eq!(refresh_of(&rig.grant(PORTAL).await), "a2");
            assert_eq!(of_dispute, Uninstalled::Proven { gone: vec![] });
            assert_eq!(of_first, Uninstalled::OtherToken);
            assert!(
                matches!(rig.note("67", EventKind::Installed, None, "e9").await, RecordedDispute::New(new) if new.holder.as_deref() == Some("1"))
            );
        }
    }
}
