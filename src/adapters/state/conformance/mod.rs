//! Promises of the state, written against [`State`] alone: each engine runs all of them, see [`suite`].
//!
//! Must not know the storage of an engine: `tests` covers behaviour of SQLite only.

pub mod alerting;
pub mod candidates;
pub mod claiming;
pub mod clients;
pub mod configuration;
pub mod counting;
pub mod installs;
pub mod keeping;
pub mod newcomers;
pub mod recording;
pub mod rolled_back;
pub mod taking;
pub mod unreadable;

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::domain::name::PortalName;
use crate::domain::portal::{Grant, Kind, Phase, binding};
use crate::domain::portal::{GrantStatus, Portal};
use crate::domain::record::{ClientVerdict, KeepNotified, RecordOutcome, Recorded, RenewalRecord};
use crate::domain::renewal::Renewed;
use crate::domain::settings::Configured;
use crate::domain::settings::{RenewSetting, Settings};
use crate::domain::token_format::TokenFormat;
use refreshd_secrets::Fingerprint;
use refreshd_secrets::{AccessToken, RefreshToken};
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Class;
use refreshd_token_client::token::Generation;
use refreshd_token_client::token::{Access, Credential, Details, Tokens, Validity};

pub const URL: &str = "https://oauth.example/token";
pub const OTHER: &str = "https://other.example/token";
pub const HOUR: i64 = 3600;

/// An implementation of [`State`], as the suite needs it.
pub trait Engine: Sized {
    /// An empty state.
    async fn open() -> (Self, State);
    /// Opens the same state again, after a stop: the caller has dropped its handles.
    async fn reopen(self) -> (Self, State);
    /// Pairs that are kept unused, oldest first: portal, reason, refresh token.
    fn superseded(&self) -> Vec<(String, String, String)>;
    /// Damages stored data, as another version or a failing disk would.
    fn spoil(&self, what: Spoiled<'_>);
}

/// Stored data to make unreadable.
#[derive(Clone, Copy, Debug)]
pub enum Spoiled<'d> {
    /// A part of a portal's row.
    Row(&'d str, Part),
    /// A further row with an invalid name.
    RowWithoutName(&'d str),
    /// An incident, by its key.
    Incident(&'d str),
    /// A queued alert, by its number.
    QueuedAlert(i64),
}

/// Part of a portal's row.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Details,
    Phase,
    Problem,
    Attempt,
    /// The client that the grant is bound to.
    BoundTo,
    /// That client and the configured one.
    Bindings,
    Settings,
    /// The notified escalation steps.
    Notified,
}

/// Creates a test of every promise for an engine. A promise that is not listed is dead code.
macro_rules! suite {
    ($engine:ident) => {
        $crate::adapters::state::conformance::suite! { $engine:
            alerting: what_was_told_and_what_waits_are_there_after_a_restart_in_order, alerts_are_stored_all_or_nothing, a_row_that_cannot_be_understood_costs_no_other, silences_end_by_time_or_by_word_and_move_with_the_clock, troubled_portals_come_page_by_page_and_a_refused_app_is_named, a_mark_is_kept;
            candidates: the_grant_is_untouched_until_the_proof_is_recorded, a_refused_candidate_goes_and_is_remembered_for_files, what_is_newer_wins_and_a_late_pair_is_kept_aside, one_token_is_no_candidate_of_two_portals, candidates_of_a_busy_app_wait, a_claim_outlives_a_restart_and_times_follow_the_clock, a_lost_grant_is_held_until_a_person_hands_one_over_or_forgets, a_portal_in_doubt_is_held_until_a_person_hands_a_grant_over_or_forgets, one_after_the_other_they_find_room_as_the_log_grows;
            claiming: claims_are_exclusive_and_soonest_expiry_first, claims_made_at_once_have_no_portal_in_common,
                a_request_that_nobody_waits_for_claims_all_of_it_or_nothing, capacity_counts_for_each_token_endpoint, nothing_is_claimed_before_its_time_and_the_next_is_said, a_claim_survives_the_process_and_can_be_ended_by_the_next, one_portal_is_claimed_by_hand_whatever_its_time, a_request_to_renew_says_what_becomes_of_it;
            clients: one_portals_refusal_is_one_portals, a_client_works_for_the_portals_that_have_a_valid_token, a_client_that_five_portals_are_refused_with_is_refused_and_others_wait, no_portal_tries_twice_in_a_row, the_portals_of_a_client_that_breaks_later_find_it_out, a_client_of_one_portal_is_left_alone_until_its_time, acceptance_releases_a_grant_in_doubt_too, a_probe_keeps_nobody_waiting, a_changed_client_is_tried_at_once, a_changed_client_ends_the_waits_of_its_portals, an_operators_word_lets_a_refused_client_try_with_each_portal_that_is_asked_for, a_dead_grant_beside_a_refused_client_is_no_proof_that_the_client_works, after_a_dead_grant_a_third_portal_is_asked, a_client_that_works_for_the_last_portal_that_is_asked_is_never_called_refused;
            configuration: a_dropped_portal_keeps_its_grant_and_is_left_alone, another_client_does_not_get_to_see_the_grant, another_age_moves_the_renewal, an_endpoint_that_is_not_allowed_any_more_is_left, an_endpoint_that_changes_during_a_renewal_stays_changed, the_server_a_reply_names_is_remembered, every_time_moves_with_the_clock, a_reply_that_comes_after_a_clock_step_is_dated_by_the_new_clock, a_clock_set_back_between_two_runs_makes_every_fresh_grant_due, a_changed_ladder_is_looked_at_again;
            counting: the_census_counts_kinds_and_what_is_overdue, pages_follow_the_names_without_a_gap;
            rolled_back: an_old_grant_takes_over_what_was_published_and_is_not_sent, a_grant_that_moved_on_is_not_held;
            installs: an_install_makes_a_portal_that_is_due_at_once, it_stays_through_a_restart_and_follows_its_apps_table, a_name_that_the_configuration_takes_is_its_own_and_comes_back_when_it_lets_go, a_portal_of_the_configuration_is_resumed_in_place_and_left_alone_while_fresh, an_installation_event_replaces_and_its_replay_does_not, a_repeated_notice_leaves_a_request_under_way_its_claim, a_removal_needs_its_proof_and_comes_once, another_users_event_does_not_make_the_proof_of_a_portal_whose_grant_lives, what_is_gone_is_anybodys_who_installs_again, each_user_is_a_portal_where_the_rule_says_so, a_forgotten_install_leaves_nothing, an_import_makes_the_grant_nobodys_in_particular, what_would_replace_a_living_grant_proves_itself_first_and_counts_as_brought_then, a_removal_that_nothing_proves_has_the_members_fresh_grants_renewed;
            keeping: a_reply_that_could_not_be_read_is_kept_whole_until_a_renewal_succeeds, of_many_replies_the_first_and_the_newest_are_kept_and_each_once, a_kept_reply_gives_its_grant_only_to_the_grant_it_answers, install_events_wait_in_order_until_they_are_done, metadata_is_kept_by_issuer_and_gives_apps_their_endpoint, nothing_that_was_recorded_is_lost_over_a_stop;
            newcomers: one_waits_and_only_a_better_claim_displaces_it, whoever_was_refused_is_not_told_of_again_and_his_grant_is_not_kept, the_proof_changes_with_the_grant_and_not_before;
            recording: a_new_pair_is_stored_whole_and_counted, the_generation_never_goes_back, a_reply_that_comes_after_an_import_is_kept_aside, a_reply_that_comes_after_a_forget_is_kept_aside, somebody_elses_pair_is_kept_aside_and_not_used, what_was_told_is_remembered_unless_the_grant_moved_on, what_is_told_of_the_end_while_a_renewal_is_under_way_stays_told, what_is_known_of_lives_is_kept_moves_with_the_clock_and_goes_with_the_grant, a_pair_whose_token_had_ended_is_recorded_as_that;
            taking: a_grant_is_stored_and_due_at_once, one_refresh_token_is_not_for_two_portals, tokens_whose_fingerprints_begin_alike_are_not_one, a_token_that_came_in_before_is_recognised, portals_that_wait_for_their_file_are_found;
            unreadable: the_others_are_listed_and_each_says_what_is_wrong_with_it, they_are_claimed_once_held_and_counted_and_the_others_are_claimed, a_new_grant_mends_a_row_and_the_configuration_its_settings, what_was_told_is_not_worth_a_grant, an_unknown_phase_does_not_stop_the_following_of_configuration_and_clock;
        }
    };
    ($engine:ident: $($module:ident: $($promise:ident),*;)*) => {
        $(mod $module {
            $(#[tokio::test]
            async fn $promise() {
                $crate::adapters::state::conformance::$module::$promise::<super::$engine>().await;
            })*
        })*
    };
}
pub(super) use suite;

/// A state with the helpers of the suite.
pub struct Rig<E> {
    pub state: State,
    pub engine: E,
}

impl<E: Engine> Rig<E> {
    pub async fn new() -> Self {
        let (engine, state) = E::open().await;
        Self { state, engine }
    }

    /// With these portals of the app `crm`, each with a grant of that name that is due at `at(0)`.
    pub async fn with(names: &[&str]) -> Self {
        let rig = Self::new().await;
        rig.configure(names).await;
        for name in names {
            rig.take(name, name, HOUR).await;
        }
        rig
    }

    pub async fn reopen(self) -> Self {
        let Self { state, engine } = self;
        drop(state);
        let (engine, state) = engine.reopen().await;
        Self { state, engine }
    }

    /// Pairs that are kept unused: portal, reason, refresh token.
    pub fn superseded(&self) -> Vec<(String, String, String)> {
        self.engine.superseded()
    }

    pub async fn configure(&self, names: &[&str]) -> PortalChanges {
        self.follow(names.iter().map(|name| configured(name)).collect())
            .await
    }

    pub async fn follow(&self, portals: Vec<Configured>) -> PortalChanges {
        self.state
            .reconcile(portals, vec![app("crm", "1")], at(0))
            .await
            .unwrap()
    }

    /// Stores a grant that is due at `at(0)` and expires at `at(expires)`.
    pub async fn take(&self, name: &str, refresh: &str, expires: i64) -> StoreOutcome {
        self.state
            .store_grant(grant(name, refresh, expires))
            .await
            .unwrap()
    }

    pub async fn claim(&self, secs: i64, limit: usize) -> Claims {
        self.state
            .claim_due(at(secs), vec![(URL.to_owned(), limit)])
            .await
            .unwrap()
    }

    /// Claims the due portals, and returns their names.
    pub async fn claimed(&self, secs: i64) -> Vec<String> {
        names(&self.claim(secs, 100).await.portals)
    }

    pub async fn claim_only(&self, secs: i64) -> Portal {
        let mut claims = self.claim(secs, 100).await;
        assert_eq!(claims.portals.len(), 1, "{:?}", claims.portals);
        claims.portals.remove(0)
    }

    pub async fn claim_by_name(&self, portal: &str) -> Portal {
        self.state
            .claim_one(name(portal), at(0))
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn record(&self, portal: &Portal, secs: i64, outcome: RecordOutcome) -> Recorded {
        self.record_client(portal, secs, outcome, ClientVerdict::Unknown)
            .await
    }

    pub async fn record_client(
        &self,
        portal: &Portal,
        secs: i64,
        outcome: RecordOutcome,
        client: ClientVerdict,
    ) -> Recorded {
        let record = RenewalRecord {
            portal: portal.name.clone(),
            app: portal.settings.as_ref().unwrap().app.clone(),
            claim: portal.grant.as_ref().unwrap().claim.unwrap(),
            outcome,
            notified: Vec::new(),
            keep_notified: KeepNotified::RefreshEnd,
            evaluate_at: None,
            now: at(secs),
            client,
            without_refresh: None,
            bought_by: None,
        };
        self.state.record(Arc::new(record)).await.unwrap()
    }

    pub async fn portal(&self, portal: &str) -> Portal {
        self.state.portal(name(portal)).await.unwrap().unwrap()
    }

    pub async fn grant(&self, portal: &str) -> Grant {
        self.portal(portal).await.grant.unwrap()
    }
}

pub fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + secs)
}

pub fn name(text: &str) -> PortalName {
    PortalName::parse(text).unwrap()
}

pub fn names(portals: &[Portal]) -> Vec<String> {
    portals
        .iter()
        .map(|portal| portal.name.to_string())
        .collect()
}

pub fn configured(portal: &str) -> Configured {
    Configured {
        name: name(portal),
        settings: Settings {
            app: "crm".to_owned(),
            domain: None,
            renew_every: None,
            formats: vec![TokenFormat::Json],
            identity: None,
            redirect_uri: None,
            scope: Vec::new(),
            refresh_token_file: None,
        },
        every: RenewSetting::AgeMillis(1_500_000),
        token_url: URL.to_owned(),
        allowed_urls: Arc::new([URL.to_owned(), OTHER.to_owned()]),
        binding: binding("example", "client"),
    }
}

pub fn app(name: &str, what: &str) -> AppFingerprint {
    AppFingerprint {
        name: name.to_owned(),
        fingerprint: Fingerprint::of(what.as_bytes()),
        install: None,
    }
}

pub fn tokens(refresh: &str, issued: i64, expires: i64) -> Tokens {
    Tokens {
        access: Some(Access {
            token: AccessToken::new(&format!("access of {refresh}")).unwrap(),
            token_type: "Bearer".to_owned(),
            issued_at: at(issued),
            expires_at: at(expires),
        }),
        credential: Credential::Refresh(RefreshToken::new(refresh).unwrap()),
        details: Details {
            scope: vec!["crm".to_owned()],
            ..Details::default()
        },
        validity: Validity::default(),
    }
}

pub fn grant(portal: &str, refresh: &str, expires: i64) -> NewGrant {
    NewGrant {
        proven: None,
        portal: name(portal),
        tokens: tokens(refresh, 0, expires),
        identity: Some(format!("member of {portal}")),
        bound_to: binding("example", "client"),
        token_url: URL.to_owned(),
        status: GrantStatus {
            phase: Phase::Fresh,
            renew_at: Some(at(0)),
            next_attempt_at: Some(at(0)),
        },
        now: at(0),
    }
}

/// A new pair received at `secs`, to be renewed 1500 s later.
pub fn renewed(refresh: &str, secs: i64) -> RecordOutcome {
    let due = Some(at(secs + 1500));
    RecordOutcome::Renewed(Box::new(Renewed {
        tokens: tokens(refresh, secs, secs + HOUR),
        status: GrantStatus {
            phase: Phase::Fresh,
            renew_at: due,
            next_attempt_at: due,
        },
        identity: None,
        token_url: None,
        renamed_from: None,
    }))
}

pub fn problem(class: Class) -> Problem {
    Problem {
        code: Some("code".to_owned()),
        ..Problem::new(class, "words".to_owned())
    }
}

/// A failure since `at(0)` that is retried at `act`.
pub fn retrying(act: i64) -> RecordOutcome {
    let phase = Phase::Retrying {
        attempt: 1,
        since: at(0),
        problem: problem(Class::Transient),
    };
    RecordOutcome::Kept(GrantStatus {
        phase,
        renew_at: Some(at(0)),
        next_attempt_at: Some(at(act)),
    })
}

/// Starts a request and drops it, as when the daemon stops during it.
pub async fn abandon(request: impl Future) {
    tokio::select! {
        biased;
        _ = request => {}
        () = std::future::ready(()) => {}
    }
}

/// The names of a listing, page by page.
pub async fn pages_of(mut listing: PortalPages) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    while let Some(page) = listing.next().await.unwrap() {
        pages.push(names(&page.portals));
    }
    pages
}

pub fn refresh_of(grant: &Grant) -> &str {
    grant.tokens.credential.refresh().unwrap().expose()
}

pub fn generation(count: u64) -> Recorded {
    Recorded::Done {
        generation: Generation(count),
        client_changed: false,
        ruling: None,
        told_before: Vec::new(),
    }
}
