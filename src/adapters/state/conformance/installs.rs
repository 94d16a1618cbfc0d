//! Portals of installs: the ownership of rows and grants, and the effects of events.

use super::*;
use crate::domain::import::ImportedGrant;
use crate::domain::install::{
    EventKind, InstallContext, InstallRule, NameRule, OwnershipProof, Users,
};
use crate::domain::token_format::TokenFormat;
use crate::domain::token_owner::TokenOwner;
use refreshd_secrets::ApplicationToken;
use refreshd_token_client::samples::profile;

const INSTALLER: &str = "1";
const EMPLOYEE: &str = "67";

pub fn terms(rule: &str, users: Users) -> InstallContext {
    let rule = InstallRule {
        path: "/install/crm".to_owned(),
        names: NameRule::parse(rule).unwrap(),
        users,
        formats: vec![TokenFormat::Json],
        renew_every: None,
    };
    InstallContext {
        app: "crm".to_owned(),
        rule,
        profile: Arc::new(profile()),
        binding: binding("example", "client"),
    }
}

/// The member `m` of a host is the first label of it.
fn install(
    occasion: EventKind,
    host: &str,
    user: &str,
    refresh: &str,
    secs: i64,
) -> InstalledGrant {
    InstalledGrant {
        terms: terms("{domain}", Users::Installer),
        occasion,
        owner: TokenOwner {
            member_id: host.split('.').next().unwrap().to_owned(),
            user_id: user.to_owned(),
            host: host.to_owned(),
            endpoint: format!("https://{host}/rest/"),
            status: None,
        },
        imported: ImportedGrant {
            tokens: tokens(refresh, secs, secs + HOUR),
            identity: None,
            server: None,
            client_id: None,
            host: None,
        },
        application_token: None,
        sent_at: None,
        over: OverGrant::Report,
        now: at(secs),
    }
}

fn opened(host: &str, user: &str, refresh: &str) -> InstalledGrant {
    install(EventKind::Opened, host, user, refresh, 0)
}

fn event(host: &str, user: &str, refresh: &str, token: &str, secs: i64) -> InstalledGrant {
    InstalledGrant {
        application_token: ApplicationToken::new(token),
        sent_at: Some(at(secs)),
        ..install(EventKind::Installed, host, user, refresh, secs)
    }
}

pub fn removal(member_id: &str, token: &str, sent: i64, now: i64) -> Uninstall {
    Uninstall {
        app: "crm".to_owned(),
        binding: binding("example", "client"),
        member_id: member_id.to_owned(),
        application_token: ApplicationToken::new(token),
        sent_at: Some(at(sent)),
        now: at(now),
        problem: problem(Class::Gone),
    }
}

/// An uninstall event with its application token, and these grants, which did not work, as gone.
pub fn proven(gone: &[&str]) -> Uninstalled {
    Uninstalled::Proven {
        gone: gone.iter().map(|portal| name(portal)).collect(),
    }
}

fn stored(portal: &str, generation: u64, resumed: bool) -> InstallOutcome {
    InstallOutcome::Stored {
        portal: name(portal),
        generation: Generation(generation),
        resumed,
    }
}

impl<E: Engine> Rig<E> {
    /// Stores it; one that must be verified first is, at a server that does not rotate.
    async fn keep(&self, install: InstalledGrant) -> InstallOutcome {
        match self.state.install(install.clone()).await.unwrap() {
            InstallOutcome::Unproven { portal, .. } => {
                let refresh = install.imported.tokens.credential.refresh();
                let refresh = refresh.unwrap().expose().to_owned();
                self.keep_verified(install, &portal, &refresh).await
            }
            kept => kept,
        }
    }

    /// Offers it as a candidate, which is verified: the server issues this refresh token.
    async fn keep_verified(
        &self,
        install: InstalledGrant,
        portal: &PortalName,
        refresh: &str,
    ) -> InstallOutcome {
        let now = install.now;
        let offered = self
            .state
            .install(InstalledGrant {
                over: OverGrant::Candidate,
                ..install
            })
            .await
            .unwrap();
        if offered != InstallOutcome::Offered(Offered::Stored) {
            return offered;
        }
        self.verify_candidate(portal.clone(), refresh, now).await
    }

    /// Renews the candidate: the server issues this refresh token.
    async fn verify_candidate(
        &self,
        portal: PortalName,
        refresh: &str,
        now: Timestamp,
    ) -> InstallOutcome {
        let mut renewed = match renewed(refresh, now.secs()) {
            RecordOutcome::Renewed(renewed) => renewed,
            other => panic!("{other:?}"),
        };
        renewed.identity = Some("acme".to_owned());
        let outcome = CandidateOutcome::Proved(renewed);
        match self.record_candidate(portal.clone(), outcome, now).await {
            CandidateRecorded::Promoted { generation, .. } => InstallOutcome::Stored {
                portal,
                generation,
                resumed: true,
            },
            other => panic!("{other:?}"),
        }
    }

    async fn record_candidate(
        &self,
        portal: PortalName,
        outcome: CandidateOutcome,
        now: Timestamp,
    ) -> CandidateRecorded {
        let candidate = self
            .state
            .claim_candidates(now, 1, Vec::new())
            .await
            .unwrap()
            .remove(0);
        let record = RecordCandidate {
            portal,
            app: "crm".to_owned(),
            claim: candidate.portal.grant.unwrap().claim.unwrap(),
            outcome,
            now,
        };
        self.state.record_candidate(Arc::new(record)).await.unwrap()
    }

    /// Lets a renewal of the grant end in this phase.
    async fn make(&self, portal: &str, phase: impl FnOnce(Problem) -> Phase) {
        let phase = phase(problem(Class::NeedsAuthorization));
        let next_attempt_at = matches!(phase, Phase::Retrying { .. }).then(|| at(0));
        let claimed = self
            .state
            .claim_one(name(portal), at(0))
            .await
            .unwrap()
            .unwrap();
        let status = GrantStatus {
            phase,
            renew_at: None,
            next_attempt_at,
        };
        self.record(&claimed, 0, RecordOutcome::Kept(status)).await;
    }

    pub async fn end(&self, removal: Uninstall) -> Uninstalled {
        self.state.uninstall(removal).await.unwrap()
    }

    /// The configuration names these, and accepts installs of `crm`.
    pub async fn follow_with_installs(
        &self,
        portals: &[&str],
        terms: Option<InstallContext>,
    ) -> PortalChanges {
        let portals = portals.iter().map(|name| configured(name)).collect();
        let apps = vec![AppFingerprint {
            install: terms,
            ..app("crm", "1")
        }];
        self.state.reconcile(portals, apps, at(0)).await.unwrap()
    }
}

pub async fn an_install_makes_a_portal_that_is_due_at_once<E: Engine>() {
    let rig = Rig::<E>::new().await;
    assert_eq!(
        rig.keep(opened("acme.example", INSTALLER, "r1")).await,
        stored("acme.example", 1, false)
    );
    let portal = rig.portal("acme.example").await;
    assert_eq!(portal.kind(), Kind::Fresh);
    let settings = portal.settings.unwrap();
    assert_eq!(
        (settings.app.as_str(), settings.domain.as_deref()),
        ("crm", Some("acme.example"))
    );
    assert_eq!(settings.identity.as_deref(), Some("acme"));
    let grant = portal.grant.unwrap();
    assert_eq!(
        (grant.identity.as_deref(), grant.status.next_attempt_at),
        (Some("acme"), Some(at(0)))
    );
    assert_eq!(grant.token_url, profile().token_url);
    assert_eq!(
        rig.keep(opened("acme.example", INSTALLER, "r2")).await,
        InstallOutcome::FreshAlready(name("acme.example"))
    );
    assert_eq!(
        rig.keep(opened("acme.example", EMPLOYEE, "r3")).await,
        InstallOutcome::OtherUser {
            portal: name("acme.example"),
            kind: Kind::Fresh,
            known: true,
            by_notice: true
        }
    );
    assert_eq!(refresh_of(&rig.grant("acme.example").await), "r1");
}

pub async fn it_stays_through_a_restart_and_follows_its_apps_table<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.follow_with_installs(&[], Some(terms("{domain}", Users::Installer)))
        .await;
    rig.keep(opened("acme.example", INSTALLER, "r1")).await;
    let rig = rig.reopen().await;
    let same = rig
        .follow_with_installs(&[], Some(terms("{domain}", Users::Installer)))
        .await;
    assert_eq!(same, PortalChanges::default());
    let mut other = terms("{domain}", Users::Installer);
    other.rule.formats = vec![TokenFormat::Raw];
    other.rule.renew_every = Some(RenewSetting::AgeMillis(60_000));
    let changed = rig.follow_with_installs(&[], Some(other)).await;
    assert_eq!(
        changed,
        PortalChanges {
            changed: 1,
            ..PortalChanges::default()
        }
    );
    assert_eq!(
        rig.portal("acme.example").await.settings.unwrap().formats,
        [TokenFormat::Raw]
    );
    let dropped = rig.follow_with_installs(&[], None).await;
    assert_eq!(
        (dropped.dropped, rig.portal("acme.example").await.kind()),
        (1, Kind::Unconfigured)
    );
    rig.follow_with_installs(&[], Some(terms("{domain}", Users::Installer)))
        .await;
    assert_eq!(rig.portal("acme.example").await.kind(), Kind::Fresh);
    assert_eq!(
        rig.claimed(0).await,
        Vec::<String>::new(),
        "of another server"
    );
}

pub async fn a_name_that_the_configuration_takes_is_its_own_and_comes_back_when_it_lets_go<
    E: Engine,
>() {
    let rig = Rig::<E>::new().await;
    let installs = || Some(terms("{domain}", Users::Installer));
    rig.keep(opened("acme.example", INSTALLER, "r1")).await;
    rig.follow_with_installs(&["acme.example"], installs())
        .await;
    let portal = rig.portal("acme.example").await;
    assert_eq!(
        (portal.kind(), portal.settings),
        (Kind::Fresh, Some(configured("acme.example").settings))
    );
    rig.follow_with_installs(&[], installs()).await;
    assert_eq!(rig.portal("acme.example").await.kind(), Kind::Unconfigured);
    assert_eq!(
        rig.keep(opened("acme.example", INSTALLER, "r2")).await,
        stored("acme.example", 2, true)
    );
    let strangers = InstalledGrant {
        owner: TokenOwner {
            member_id: "other".to_owned(),
            ..opened("acme.example", "1", "x").owner
        },
        ..opened("acme.example", "1", "r3")
    };
    rig.follow_with_installs(&[], None).await;
    assert_eq!(
        rig.keep(strangers).await,
        stored("other", 1, false),
        "a grant that is kept is not written over"
    );
    assert_eq!(refresh_of(&rig.grant("acme.example").await), "r2");
}

pub async fn a_portal_of_the_configuration_is_resumed_in_place_and_left_alone_while_fresh<
    E: Engine,
>() {
    for (pinned, host) in [
        (Some("acme"), None),
        (None, Some("Acme.example")),
        (None, None),
    ] {
        let rig = Rig::<E>::new().await;
        let mut listed = configured("news");
        listed.settings.identity = pinned.map(str::to_owned);
        listed.settings.domain = host.map(str::to_owned);
        rig.follow(vec![listed, configured("acme.example")]).await;
        if pinned.or(host).is_none() {
            rig.state
                .store_grant(NewGrant {
                    identity: Some("acme".to_owned()),
                    ..grant("news", "r0", HOUR)
                })
                .await
                .unwrap();
            let claimed = rig.claim_by_name("news").await;
            let dead = Phase::NeedsAuthorization {
                since: at(0),
                problem: problem(Class::NeedsAuthorization),
                while_in_doubt: false,
            };
            let status = GrantStatus {
                phase: dead,
                renew_at: None,
                next_attempt_at: None,
            };
            rig.record(&claimed, 0, RecordOutcome::Kept(status)).await;
        }
        let taken = rig.keep(opened("acme.example", INSTALLER, "r1")).await;
        assert!(
            matches!(&taken, InstallOutcome::Stored { portal, resumed: true, .. } if portal.as_str() == "news"),
            "{taken:?}"
        );
        let again = rig
            .keep(event("acme.example", INSTALLER, "r2", "proof", 0))
            .await;
        assert!(
            matches!(&again, InstallOutcome::Stored { portal, .. } if portal.as_str() == "news"),
            "a new installation ends the grants of the one before: {again:?}"
        );
        for (occasion, refresh) in [(EventKind::Opened, "r4"), (EventKind::SystemUser, "r5")] {
            let visit = install(occasion, "acme.example", INSTALLER, refresh, 0);
            assert_eq!(
                rig.keep(visit).await,
                InstallOutcome::FreshAlready(name("news"))
            );
        }
        let replayed = event("acme.example", INSTALLER, "r2", "proof", 0);
        assert_eq!(rig.keep(replayed).await, InstallOutcome::Replayed);
        assert_eq!(
            rig.portal("news")
                .await
                .settings
                .unwrap()
                .identity
                .as_deref(),
            pinned,
            "its own settings stay"
        );
        // The name of the rule is configured, and belongs to another portal.
        let other = InstalledGrant {
            owner: TokenOwner {
                member_id: "other".to_owned(),
                ..opened("acme.example", "1", "x").owner
            },
            ..opened("acme.example", "1", "r3")
        };
        assert_eq!(rig.keep(other).await, stored("other", 1, false));
        assert!(rig.portal("acme.example").await.grant.is_none());
    }
}

pub async fn an_installation_event_replaces_and_its_replay_does_not<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.keep(opened("acme.example", INSTALLER, "r0")).await;
    let unproven = event("acme.example", "2", "r2", "proof", 10);
    let other = |proof| InstallOutcome::OtherInstallation {
        portal: name("acme.example"),
        kind: Some(Kind::Fresh),
        proof,
        is_disputed: true,
    };
    assert_eq!(rig.keep(unproven).await, other(OwnershipProof::Unknown));
    for (user, refresh, generation) in [(INSTALLER, "r1", 2), ("2", "r2", 3)] {
        let kept = rig
            .keep(event("acme.example", user, refresh, "proof", 10))
            .await;
        assert_eq!(kept, stored("acme.example", generation, true));
    }
    assert_eq!(
        rig.keep(event("acme.example", "2", "r2", "proof", 10))
            .await,
        InstallOutcome::Replayed
    );
    assert_eq!(
        rig.keep(event("acme.example", "2", "r1", "proof", 10))
            .await,
        InstallOutcome::Replayed
    );
    let planted = event("acme.example", EMPLOYEE, "r3", "planted", 20);
    assert_eq!(rig.keep(planted).await, other(OwnershipProof::Other));
    let old = InstalledGrant {
        now: at(200_000),
        ..event("acme.example", "2", "r4", "proof", 20)
    };
    assert_eq!(rig.keep(old).await, InstallOutcome::Replayed);
    assert_eq!(refresh_of(&rig.grant("acme.example").await), "r2");
}

pub async fn a_repeated_notice_leaves_a_request_under_way_its_claim<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
        .await;
    let claimed = rig.claim_by_name("acme.example").await;
    assert_eq!(
        rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
            .await,
        InstallOutcome::Replayed
    );
    assert_eq!(
        rig.record(&claimed, 1, renewed("r2", 1)).await,
        generation(2)
    );
}

pub async fn a_removal_needs_its_proof_and_comes_once<E: Engine>() {
    let rig = Rig::<E>::new().await;
    assert_eq!(
        rig.end(removal("acme", "proof", 50, 50)).await,
        Uninstalled::Unknown
    );
    rig.keep(opened("acme.example", INSTALLER, "r1")).await;
    assert_eq!(
        rig.end(removal("acme", "proof", 50, 50)).await,
        Uninstalled::Unknown,
        "a browser brings no proof"
    );
    rig.keep(event("acme.example", INSTALLER, "r2", "proof", 10))
        .await;
    assert_eq!(
        rig.end(removal("acme", "prooF", 50, 50)).await,
        Uninstalled::OtherToken
    );
    assert_eq!(
        rig.end(removal("acme", "proof", 10, 50)).await,
        Uninstalled::Replayed,
        "older than the install"
    );
    assert_eq!(
        rig.end(removal("acme", "proof", 50, 100_000)).await,
        Uninstalled::Replayed,
        "of another day"
    );
    // The first sender may have chosen the application token: a grant that may be alive is renewed, which decides.
    assert_eq!(rig.end(removal("acme", "proof", 50, 55)).await, proven(&[]));
    assert_eq!(rig.grant("acme.example").await.status.phase, Phase::Fresh);
    rig.make("acme.example", |problem| Phase::Retrying {
        attempt: 1,
        since: at(55),
        problem,
    })
    .await;
    assert_eq!(rig.end(removal("acme", "proof", 51, 55)).await, proven(&[]));
    rig.make("acme.example", |problem| Phase::NeedsAuthorization {
        since: at(55),
        problem,
        while_in_doubt: false,
    })
    .await;
    assert_eq!(
        rig.end(removal("acme", "proof", 52, 55)).await,
        proven(&["acme.example"])
    );
    let grant = rig.grant("acme.example").await;
    assert_eq!(
        grant.status.phase,
        Phase::Gone {
            since: at(55),
            problem: problem(Class::Gone)
        }
    );
    assert_eq!(
        (grant.status.next_attempt_at, refresh_of(&grant)),
        (None, "r2")
    );
    assert_eq!(
        rig.keep(event("acme.example", "2", "r3", "proof", 60))
            .await,
        stored("acme.example", 3, true)
    );
    assert_eq!(
        rig.end(removal("acme", "proof", 50, 65)).await,
        Uninstalled::Replayed,
        "before the new install"
    );
    assert_eq!(rig.portal("acme.example").await.kind(), Kind::Fresh);
}

pub async fn another_users_event_does_not_make_the_proof_of_a_portal_whose_grant_lives<
    E: Engine,
>() {
    let rig = Rig::<E>::new().await;
    let mut listed = configured("news");
    listed.settings.identity = Some("acme".to_owned());
    rig.follow(vec![listed]).await;
    rig.keep(opened("acme.example", INSTALLER, "r1")).await;
    let disputed = InstallOutcome::OtherInstallation {
        portal: name("news"),
        kind: Some(Kind::Fresh),
        proof: OwnershipProof::Unknown,
        is_disputed: true,
    };
    assert_eq!(
        rig.keep(event("acme.example", EMPLOYEE, "r2", "planted", 10))
            .await,
        disputed
    );
    assert_eq!(
        rig.end(removal("acme", "planted", 20, 20)).await,
        Uninstalled::Unknown
    );
    assert_eq!(
        rig.keep(event("acme.example", INSTALLER, "r3", "proof", 10))
            .await,
        stored("news", 2, true)
    );
    let refused = event("acme.example", INSTALLER, "r4", "proof", 10);
    let candidate = InstalledGrant {
        over: OverGrant::Candidate,
        ..refused.clone()
    };
    assert_eq!(
        rig.state.install(candidate).await.unwrap(),
        InstallOutcome::Offered(Offered::Stored)
    );
    rig.record_candidate(name("news"), CandidateOutcome::Refused, at(10))
        .await;
    assert_eq!(rig.keep(refused).await, InstallOutcome::Replayed);
    assert_eq!(rig.end(removal("acme", "proof", 20, 20)).await, proven(&[]));
}

pub async fn what_is_gone_is_anybodys_who_installs_again<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
        .await;
    rig.make("acme.example", |problem| Phase::Gone {
        since: at(5),
        problem,
    })
    .await;
    assert_eq!(
        rig.keep(opened("acme.example", "2", "r2")).await,
        stored("acme.example", 2, true)
    );
}

pub async fn each_user_is_a_portal_where_the_rule_says_so<E: Engine>() {
    let rig = Rig::<E>::new().await;
    let each = |user: &str, refresh: &str| InstalledGrant {
        terms: terms("{member_id}.{user_id}", Users::Each),
        ..opened("acme.example", user, refresh)
    };
    assert_eq!(rig.keep(each("1", "r1")).await, stored("acme.1", 1, false));
    assert_eq!(
        rig.keep(each("67", "r67")).await,
        stored("acme.67", 1, false)
    );
    assert_eq!(
        rig.keep(each("67", "r68")).await,
        InstallOutcome::FreshAlready(name("acme.67"))
    );
    let proof = InstalledGrant {
        terms: terms("{member_id}.{user_id}", Users::Each),
        ..event("acme.example", "1", "r2", "proof", 1)
    };
    assert_eq!(rig.keep(proof).await, stored("acme.1", 2, true));
    assert_eq!(rig.end(removal("acme", "proof", 5, 5)).await, proven(&[]));
    let asked = rig.state.request_renewal_of_member(
        "crm".to_owned(),
        binding("example", "client"),
        "acme".to_owned(),
        true,
        at(5),
    );
    assert_eq!(
        asked.await.unwrap(),
        [(name("acme.1"), at(5)), (name("acme.67"), at(5))]
    );
}

pub async fn a_forgotten_install_leaves_nothing<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
        .await;
    assert!(rig.state.forget(name("acme.example")).await.unwrap());
    assert!(
        rig.state
            .portal(name("acme.example"))
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        rig.end(removal("acme", "proof", 5, 5)).await,
        Uninstalled::Unknown
    );
    assert_eq!(
        rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
            .await,
        InstallOutcome::Replayed
    );
}

pub async fn an_import_makes_the_grant_nobodys_in_particular<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.keep(opened("acme.example", INSTALLER, "r1")).await;
    let import = NewGrant {
        identity: Some("acme".to_owned()),
        ..grant("acme.example", "r2", HOUR)
    };
    assert_eq!(
        rig.state.store_grant(import).await.unwrap(),
        StoreOutcome::Stored(Generation(2))
    );
    assert_eq!(
        rig.keep(opened("acme.example", EMPLOYEE, "r3")).await,
        InstallOutcome::FreshAlready(name("acme.example"))
    );
}

pub async fn what_would_replace_a_living_grant_proves_itself_first_and_counts_as_brought_then<
    E: Engine,
>() {
    let rig = Rig::<E>::new().await;
    rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
        .await;
    let newcomer = event("acme.example", INSTALLER, "r2", "other proof", 10);
    let unproven = InstallOutcome::Unproven {
        portal: name("acme.example"),
        may_live: true,
    };
    assert_eq!(rig.state.install(newcomer.clone()).await.unwrap(), unproven);
    let candidate = InstalledGrant {
        over: OverGrant::Candidate,
        ..newcomer.clone()
    };
    let offer = async || rig.state.install(candidate.clone()).await.unwrap();
    assert_eq!(offer().await, InstallOutcome::Offered(Offered::Stored));
    assert_eq!(refresh_of(&rig.grant("acme.example").await), "r1");
    // After a crash the event is processed again.
    assert_eq!(rig.state.install(newcomer.clone()).await.unwrap(), unproven);
    assert_eq!(offer().await, InstallOutcome::Offered(Offered::Known));
    let removed = rig.end(removal("acme", "other proof", 11, 11)).await;
    assert_eq!(
        removed,
        Uninstalled::OtherToken,
        "nothing of it is recorded before its proof"
    );
    let outcome = rig
        .verify_candidate(name("acme.example"), "r3", at(10))
        .await;
    assert_eq!(outcome, stored("acme.example", 2, true));
    let grant = rig.grant("acme.example").await;
    assert_eq!(refresh_of(&grant), "r3");
    assert!(
        grant.status.next_attempt_at > Some(at(10)),
        "it was renewed by its proof: {:?}",
        grant.status
    );
    assert_eq!(
        rig.state.install(newcomer).await.unwrap(),
        InstallOutcome::Replayed
    );
    let removed = rig.end(removal("acme", "other proof", 12, 12)).await;
    assert_eq!(removed, proven(&[]), "its proof is the installation's now");
}

pub async fn a_removal_that_nothing_proves_has_the_members_fresh_grants_renewed<E: Engine>() {
    let rig = Rig::<E>::new().await;
    rig.keep(event("acme.example", INSTALLER, "r1", "proof", 0))
        .await;
    let bare = Uninstall {
        application_token: None,
        ..removal("acme", "proof", 50, 50)
    };
    assert_eq!(rig.end(bare).await, Uninstalled::Bare);
    let timeless = Uninstall {
        sent_at: None,
        ..removal("acme", "proof", 50, 50)
    };
    assert_eq!(rig.end(timeless).await, Uninstalled::Bare);
    let claimed = rig.claim_by_name("acme.example").await;
    rig.record(&claimed, 1, renewed("r2", 1)).await;
    let binding = binding("example", "client");
    let ask = |member: &str, secs| {
        rig.state.request_renewal_of_member(
            "crm".to_owned(),
            binding,
            member.to_owned(),
            false,
            at(secs),
        )
    };
    assert_eq!(ask("globex", 50).await.unwrap(), []);
    // Not within a tenth of its life after the last renewal.
    let asked = ask("acme", 50).await.unwrap();
    let [(portal, when)] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    assert_eq!(portal, &name("acme.example"));
    assert!(*when > at(50) && *when <= at(HOUR / 10 + 1), "{when:?}");
    assert_eq!(
        rig.grant("acme.example").await.status.next_attempt_at,
        Some(*when)
    );
    assert_eq!(
        ask("acme", HOUR / 2).await.unwrap(),
        [(name("acme.example"), at(HOUR / 2))]
    );
    // An event with its application token is processed at once, whatever happened just before; a portal that is gone is not.
    let at_once = || {
        rig.state.request_renewal_of_member(
            "crm".to_owned(),
            binding,
            "acme".to_owned(),
            true,
            at(60),
        )
    };
    assert_eq!(at_once().await.unwrap(), [(name("acme.example"), at(60))]);
    rig.make("acme.example", |problem| Phase::Gone {
        since: at(60),
        problem,
    })
    .await;
    assert_eq!(
        ask("acme", HOUR / 2).await.unwrap(),
        [],
        "what is gone is not asked for"
    );
    assert_eq!(at_once().await.unwrap(), []);
}
