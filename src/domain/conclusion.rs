//! Conclusion of a renewal: the record to store, and the effects to carry out once it is stored.
//!
//! Must not store, publish, log or wake anything: the executor of a renewal does, in the order of the effects.

use super::client::{ClientAnswer, ClientDecision};
use super::escalation::{
    EscalationNotice, Evaluation, Step, evaluate, refresh_end_of, reset_notified, resolved,
    still_notified,
};
use super::hint::HintContext;
use super::kept_reply::UnreadableReply;
use super::name::PortalName;
use super::portal::{ClaimId, Grant, Phase};
use super::record::{ClientVerdict, KeepNotified, RecordOutcome, Recorded, RenewalRecord};
use super::renewal::{Transition, interrupted_status};
use super::settings::Settings;
use refreshd_alerting::Severity;
use refreshd_secrets::Fingerprint;
use refreshd_time::Timestamp;
use refreshd_token_client::problem::Problem;
use refreshd_token_client::provider::Profile;
use refreshd_token_client::token::Generation;

/// A claimed grant as it was when its request was sent.
pub struct ClaimedRenewal {
    /// The portal.
    pub name: PortalName,
    /// Its settings.
    pub settings: Settings,
    /// Its grant.
    pub grant: Grant,
    /// The claim, and when it was made.
    pub claim: (ClaimId, Timestamp),
}

/// Outcome of a renewal, from its response.
pub struct RenewalOutcome {
    /// The new status of the grant, with the new pair if there is one.
    pub transition: Transition,
    /// A successful reply that could not be read, or whose refresh token could not.
    pub unread: Option<Box<UnreadableReply>>,
    /// Whether the server accepted the client, as far as it revealed that.
    pub client_answer: Option<ClientAnswer>,
    /// Kind of the request, should it have obtained a pair.
    pub bought_by: Option<Fingerprint>,
}

/// Consequences of a renewal once its record is stored.
pub struct Conclusion {
    /// The grant as it is recorded.
    pub grant: Grant,
    /// The problem of the grant's phase, if it has one.
    pub problem: Option<Problem>,
    name: PortalName,
    app: String,
    phase_before: Phase,
    notice_before: Option<String>,
    is_renewed: bool,
    renamed_from: Option<String>,
    escalation: Option<EscalationNotice>,
    /// Steps whose notification was reset by the outcome.
    reset_steps: Vec<String>,
    is_deferred: bool,
    client: ClientVerdict,
    now: Timestamp,
}

/// How much a renewal differs from the one before: what is expected and what is repeated needs no line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A fresh grant was renewed.
    Routine,
    /// The same failure as before.
    Repeated,
    /// The first renewal, the first failure, another failure, or a renewal after failures.
    Changed,
}

/// One thing to do after a record was stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Look for portals that are due.
    WakeScheduler,
    /// Publish the pair of this generation.
    Publish(Generation),
    /// Remove the token files: there is no grant any more.
    Unpublish,
    /// Log an escalation of the portal.
    LogPortal(EscalationNotice),
    /// Log an escalation of the app.
    LogApp(EscalationNotice),
    /// Warn of something about the new tokens.
    WarnTokens(String),
    /// Warn that the portal was renamed.
    WarnRenamed {
        /// Its former address.
        from: String,
    },
    /// Plan the next escalation step.
    WakeEscalator,
    /// Collect findings now.
    WakeAlerter,
}

/// Concludes a renewal: the record to store, and its consequences.
#[must_use]
pub fn conclude(
    claimed: ClaimedRenewal,
    outcome: RenewalOutcome,
    ladder: &[Step],
    now: Timestamp,
) -> (RenewalRecord, Conclusion) {
    let ClaimedRenewal {
        name,
        settings,
        mut grant,
        claim,
    } = claimed;
    let RenewalOutcome {
        transition,
        unread,
        client_answer,
        bought_by,
    } = outcome;
    let phase_before = grant.status.phase.clone();
    let notice_before = grant.tokens.validity.notice.clone();
    let end_before = refresh_end_of(&grant).map(|end| end.at);
    let mut keep_notified = KeepNotified::All;
    let mut renamed_from = None;
    let mut without_refresh = None;
    let outcome = match transition {
        Transition::Renewed(renewed) => {
            grant.tokens = renewed.tokens.clone();
            grant.status = renewed.status.clone();
            // A token that was expired on arrival resolves nothing; nor does a renewal extend every expiry.
            if matches!(grant.status.phase, Phase::Fresh) {
                grant.notified = still_notified(&grant, now);
                let is_unmoved = refresh_end_of(&grant).map(|end| end.at) == end_before;
                keep_notified = if is_unmoved {
                    KeepNotified::RefreshEnd
                } else {
                    KeepNotified::None
                };
            }
            renamed_from.clone_from(&renewed.renamed_from);
            without_refresh = unread;
            RecordOutcome::Renewed(renewed)
        }
        Transition::Kept(status) => {
            grant.status = status.clone();
            match unread {
                Some(reply) => RecordOutcome::Unread(status, reply),
                None => RecordOutcome::Kept(status),
            }
        }
        Transition::Foreign { status, granted } => {
            grant.status = status.clone();
            RecordOutcome::Foreign(status, granted)
        }
    };
    let client = match client_answer {
        None => ClientVerdict::Unknown,
        Some(ClientAnswer::Works) => ClientVerdict::Accepted,
        Some(ClientAnswer::GrantRefused) => ClientVerdict::GrantRefused,
        Some(ClientAnswer::Refused) => {
            ClientVerdict::Refused(grant.status.next_attempt_at.unwrap_or(now))
        }
    };
    let reset_steps = reset_notified(
        &mut grant.notified,
        ladder,
        &phase_before,
        &grant.status.phase,
    );
    let about = HintContext::of(&name, Some(&settings));
    let Evaluation {
        notice: escalation,
        mut notified,
        next: mut evaluate_at,
    } = evaluate(ladder, about, &grant, now);
    // Whether the rejection of a client concerns the app or this portal is known only once it is recorded, or once another
    // portal was tried: the escalator logs it then.
    let is_deferred = client_answer == Some(ClientAnswer::Refused) && reset_steps.is_empty();
    if is_deferred {
        notified.clone_from(&grant.notified);
        evaluate_at = Some(now);
    }
    let conclusion = Conclusion {
        problem: grant.status.phase.problem().cloned(),
        name: name.clone(),
        app: settings.app.clone(),
        phase_before,
        notice_before,
        is_renewed: matches!(outcome, RecordOutcome::Renewed(_)),
        renamed_from,
        escalation,
        reset_steps,
        is_deferred,
        client,
        now,
        grant,
    };
    let record = RenewalRecord {
        portal: name,
        app: settings.app,
        claim,
        outcome,
        notified,
        keep_notified,
        evaluate_at,
        now,
        client,
        without_refresh,
        bought_by,
    };
    (record, conclusion)
}

impl Conclusion {
    /// See [`News`]. `sent` is the generation whose token was sent.
    #[must_use]
    pub fn news(&self, sent: Generation) -> News {
        let is_fresh = matches!(self.phase_before, Phase::Fresh);
        let code = |problem: &Problem| (problem.class, problem.code.clone());
        match (&self.problem, self.phase_before.problem()) {
            (None, _) if is_fresh && sent > Generation(1) => News::Routine,
            (Some(now), Some(before)) if code(now) == code(before) => News::Repeated,
            (None | Some(_), _) => News::Changed,
        }
    }

    /// The portal.
    #[must_use]
    pub const fn portal(&self) -> &PortalName {
        &self.name
    }

    /// The effects of the stored record, in the order in which they are carried out. None where another grant came first.
    #[must_use]
    pub fn effects(&self, recorded: &Recorded) -> Vec<Effect> {
        let Recorded::Done {
            generation,
            client_changed,
            ruling,
            told_before,
        } = recorded
        else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let tries_another = self.client == ClientVerdict::GrantRefused;
        if *ruling == Some(ClientDecision::AskAnother) || tries_another {
            effects.push(Effect::WakeScheduler);
        }
        let phase = &self.grant.status.phase;
        if self.is_renewed {
            effects.push(Effect::Publish(*generation));
        } else if matches!(phase, Phase::Gone { .. }) {
            effects.push(Effect::Unpublish);
        }
        if *client_changed {
            let notice = client_notice(&self.app, self.escalation.as_ref(), self.client);
            effects.extend(notice.map(Effect::LogApp));
        }
        let is_about_client = *client_changed && matches!(self.client, ClientVerdict::Refused(_));
        // The escalator may have logged the step while the request was under way.
        let is_logged =
            |step: &String| told_before.contains(step) && !self.reset_steps.contains(step);
        let escalation = self
            .escalation
            .as_ref()
            .filter(|notice| !self.is_deferred && !is_about_client && !is_logged(&notice.step));
        effects.extend(escalation.cloned().map(Effect::LogPortal));
        let is_resolved = self.is_renewed && self.problem.is_none();
        if is_resolved {
            let notice = resolved(told_before, self.phase_before.since(), self.now);
            effects.extend(notice.map(Effect::LogPortal));
        }
        let notice = &self.grant.tokens.validity.notice;
        if self.is_renewed && *notice != self.notice_before {
            effects.extend(notice.clone().map(Effect::WarnTokens));
        }
        if let Some(from) = &self.renamed_from {
            effects.push(Effect::WarnRenamed { from: from.clone() });
        }
        effects.push(Effect::WakeEscalator);
        // An unchanged status is evaluated by the periodic collection.
        let is_news = self.escalation.is_some() && !self.is_deferred
            || *client_changed
            || self.phase_before.kind() != phase.kind();
        if is_news || is_resolved && !told_before.is_empty() {
            effects.push(Effect::WakeAlerter);
        }
        effects
    }
}

/// Concludes a claim of a process that ended: the outcome of its request is unknown. The record, and the escalation to log.
#[must_use]
pub fn conclude_interrupted(
    (name, settings): (PortalName, Option<&Settings>),
    grant: &mut Grant,
    claim: (ClaimId, Timestamp),
    profile: Option<&Profile>,
    ladder: &[Step],
    now: Timestamp,
) -> (RenewalRecord, Option<EscalationNotice>) {
    grant.status = interrupted_status(grant, profile, claim.1, now);
    let evaluation = evaluate(ladder, HintContext::of(&name, settings), grant, now);
    let record = RenewalRecord {
        portal: name,
        app: settings
            .map(|settings| settings.app.clone())
            .unwrap_or_default(),
        claim,
        outcome: RecordOutcome::Kept(grant.status.clone()),
        notified: evaluation.notified,
        keep_notified: KeepNotified::All,
        evaluate_at: evaluation.next,
        now,
        client: ClientVerdict::Unknown,
        without_refresh: None,
        bought_by: None,
    };
    (record, evaluation.notice)
}

/// One escalation for the app instead of one for each of its portals.
#[must_use]
pub fn client_notice(
    app: &str,
    notice: Option<&EscalationNotice>,
    client: ClientVerdict,
) -> Option<EscalationNotice> {
    match (client, notice) {
        (ClientVerdict::Refused(_), notice) => notice.cloned(),
        (ClientVerdict::Accepted, _) => Some(EscalationNotice {
            step: "resolved".to_owned(),
            severity: Severity::Notice,
            reason: "the authorization server accepts the app's client again".to_owned(),
            action: "none".to_owned(),
            remaining: None,
        }),
        (ClientVerdict::GrantRefused, _) => Some(EscalationNotice {
            step: "person".to_owned(),
            severity: Severity::Critical,
            reason: "the authorization server refuses the app's client, and no other portal of the app succeeds"
                .to_owned(),
            action: format!(
                "compare client_id and client_secret of the app {app} with its settings at the provider; the portals' own \
                 words: refreshd status"
            ),
            remaining: None,
        }),
        (ClientVerdict::Unknown, _) => None,
    }
}

#[cfg(test)]
#[path = "conclusion_tests.rs"]
mod tests;
