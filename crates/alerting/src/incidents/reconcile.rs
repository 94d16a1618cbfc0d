//! Reconciles the incidents with the findings of one collection: findings with one cause are grouped, and each incident
//! is opened, updated or closed.
//!
//! Memory does not grow with the number of findings: a group keeps the details of a few. Must not know where findings
//! come from.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, GroupKey, ReachedStep};
use super::{Incident, MessageContext, Notification};
use crate::message::MessageSubject;
use refreshd_time::Timestamp;

/// Portals that a message names.
const MAX_NAMED_PORTALS: usize = 20;

/// All incidents by key.
pub type Incidents = BTreeMap<String, Incident>;

/// Inputs of the decision besides the findings.
#[derive(Clone, Debug)]
pub struct AlertRules {
    /// From this many findings with one cause on, they are one incident.
    pub group_threshold: usize,
    /// Channels that receive incidents.
    pub channels: Vec<String>,
    /// Current time.
    pub now: Timestamp,
}

/// Collects findings and decides.
pub struct Reconciler<'a> {
    incidents: &'a Incidents,
    group_threshold: usize,
    now: Timestamp,
    groups: BTreeMap<GroupKey, FindingGroup>,
    alone: Vec<Finding>,
    /// Open incidents whose finding still exists, even if no notification is due.
    seen: BTreeSet<String>,
    /// Open incidents whose finding moved to another incident, with that one's key.
    moved: BTreeMap<String, String>,
}

/// Findings with one cause.
#[derive(Default)]
struct FindingGroup {
    count: u64,
    /// The ones that expire first.
    kept: Vec<Finding>,
    reached: BTreeMap<String, ReachedStep>,
    since: Option<Timestamp>,
}

/// Result of a reconciliation.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Incidents that changed.
    pub changed: Vec<Incident>,
    /// Keys of incidents that are resolved and no longer able to flap.
    pub forgotten: Vec<String>,
    /// Notifications to send.
    pub notifications: Vec<Notification>,
    /// Time of the next reconciliation if nothing changes.
    pub next: Option<Timestamp>,
}

impl<'a> Reconciler<'a> {
    /// Starts without findings.
    #[must_use]
    pub fn new(incidents: &'a Incidents, group_threshold: usize, now: Timestamp) -> Self {
        Self {
            incidents,
            group_threshold,
            now,
            groups: BTreeMap::new(),
            alone: Vec::new(),
            seen: BTreeSet::new(),
            moved: BTreeMap::new(),
        }
    }

    /// Adds a finding. A silenced one sends no notification, but keeps its incident open.
    pub fn add(&mut self, finding: Finding, silenced: bool) {
        if self.is_open(&finding.key) {
            let of_group = finding
                .group
                .as_ref()
                .filter(|group| group.always && finding.is_of_group && !silenced);
            match of_group {
                Some(group) => {
                    self.moved.insert(finding.key.clone(), group.key.clone());
                }
                None => {
                    self.seen.insert(finding.key.clone());
                }
            }
        }
        if silenced {
            let group = finding.group.filter(|group| self.is_open(&group.key));
            self.seen.extend(group.map(|group| group.key));
            return;
        }
        let Some(group) = &finding.group else {
            return self.alone.push(finding);
        };
        let kept = MAX_NAMED_PORTALS.max(self.group_threshold);
        self.groups
            .entry(group.clone())
            .or_default()
            .add(finding, kept);
    }

    /// Open incidents without a finding: they are to be resolved, whatever the reason.
    #[must_use]
    pub fn unseen(&self) -> Vec<String> {
        let views: BTreeSet<_> = self.views().into_iter().map(|view| view.key).collect();
        let gone = |incident: &&Incident| {
            incident.is_open()
                && !self.seen.contains(&incident.key)
                && !views.contains(&incident.key)
        };
        self.incidents
            .values()
            .filter(gone)
            .map(|incident| incident.key.clone())
            .collect()
    }

    /// Incident that this incident's finding moved to.
    #[must_use]
    pub fn moved_to(&self, key: &str) -> Option<&str> {
        self.moved.get(key).map(String::as_str)
    }

    /// Number of findings with the cause that this incident groups.
    #[must_use]
    pub fn left(&self, key: &str) -> u64 {
        self.groups
            .iter()
            .filter(|(group, _)| group.key == key)
            .map(|(_, gathered)| gathered.count)
            .sum()
    }

    /// Decides on each incident. `endings` holds the reason for each of [`Self::unseen`]; one without a reason stays as
    /// it is.
    #[must_use]
    pub fn decide(self, rules: &AlertRules, endings: &BTreeMap<String, String>) -> Reconciled {
        let AlertRules { channels, now, .. } = rules;
        let mut decision = Reconciled::default();
        let mut next: Option<Timestamp> = None;
        let mut after = |at: Option<Timestamp>| next = [next, at].into_iter().flatten().min();
        let views: BTreeMap<_, _> = self
            .views()
            .into_iter()
            .map(|view| (view.key.clone(), view))
            .collect();
        for view in views.values() {
            let before = self.incidents.get(&view.key);
            if view.reached.is_empty() && !self.is_open(&view.key) {
                continue;
            }
            let mut incident = before.cloned().unwrap_or_else(|| Incident::new(view, *now));
            let others: Vec<_>;
            let receivers = match &view.subject {
                // A failing channel is reported to the other channels.
                MessageSubject::Channel(name) => {
                    others = channels
                        .iter()
                        .filter(|other| *other != name)
                        .cloned()
                        .collect();
                    &others
                }
                _ => channels,
            };
            decision
                .notifications
                .extend(incident.update(view, receivers, *now));
            after(incident.next());
            if before != Some(&incident) {
                decision.changed.push(incident);
            }
        }
        for (key, before) in self.incidents {
            if views.contains_key(key) {
                continue;
            }
            if let (true, Some(reason)) = (
                before.is_open() && !self.seen.contains(key),
                endings.get(key),
            ) {
                let mut incident = before.clone();
                decision.notifications.extend(incident.close(reason, *now));
                decision.changed.push(incident);
            } else if before.is_past(*now) {
                decision.forgotten.push(key.clone());
            }
        }
        decision.next = next;
        decision
    }

    fn is_open(&self, key: &str) -> bool {
        self.incidents.get(key).is_some_and(Incident::is_open)
    }

    /// Returns whether the findings are one incident. An existing group stays until half the threshold is left, and for some
    /// time after that.
    fn is_grouped(&self, group: &GroupKey, gathered: &FindingGroup) -> bool {
        if group.always || gathered.count >= self.group_threshold as u64 {
            return true;
        }
        let open = self
            .incidents
            .get(&group.key)
            .filter(|incident| incident.is_open());
        let lasts = |incident: &Incident| incident.splits_at().is_none_or(|at| at > self.now);
        open.is_some_and(|incident| !self.is_few(group, gathered) || lasts(incident))
    }

    fn is_few(&self, group: &GroupKey, gathered: &FindingGroup) -> bool {
        !group.always && gathered.count < self.group_threshold.div_ceil(2) as u64
    }

    fn views(&self) -> Vec<MessageContext> {
        let mut views: Vec<_> = self.alone.iter().map(alone).collect();
        for (group, gathered) in &self.groups {
            if self.is_grouped(group, gathered) {
                views.extend(gathered.view(group, self.is_few(group, gathered)));
            } else {
                views.extend(gathered.kept.iter().map(alone));
            }
        }
        views
    }
}

impl FindingGroup {
    fn add(&mut self, finding: Finding, most: usize) {
        self.count += 1;
        self.since = Some(
            self.since
                .map_or(finding.since, |since| since.min(finding.since)),
        );
        for step in &finding.reached {
            self.reached
                .entry(step.id.clone())
                .or_insert_with(|| step.clone());
        }
        let at = self
            .kept
            .partition_point(|kept| urgency(kept) <= urgency(&finding));
        if at < most {
            self.kept.insert(at, finding);
            self.kept.truncate(most);
        }
    }

    fn view(&self, group: &GroupKey, few: bool) -> Option<MessageContext> {
        let worst = self
            .kept
            .iter()
            .max_by_key(|finding| finding.reached.iter().map(|step| step.severity).max())?;
        let names = self
            .kept
            .iter()
            .filter_map(|finding| finding.portal.clone())
            .take(MAX_NAMED_PORTALS);
        Some(MessageContext {
            key: group.key.clone(),
            subject: group.subject.clone(),
            reached: self.reached.values().cloned().collect(),
            reason: worst.reason.clone(),
            action: if self.count == 1 {
                worst.action.clone()
            } else {
                worst.action_for_all.clone()
            },
            since: self.since?,
            expires_at: self
                .kept
                .iter()
                .filter_map(|finding| finding.expires_at)
                .min(),
            portals: names.collect(),
            count: self.count,
            few,
            lifetime: worst.lifetime,
        })
    }
}

/// Sort key: findings without a valid token first, then by expiry.
fn urgency(finding: &Finding) -> (Option<Timestamp>, &str) {
    (finding.expires_at, &finding.key)
}

fn alone(finding: &Finding) -> MessageContext {
    MessageContext {
        key: finding.key.clone(),
        subject: finding.subject.clone(),
        reached: finding.reached.clone(),
        reason: finding.reason.clone(),
        action: finding.action.clone(),
        since: finding.since,
        expires_at: finding.expires_at,
        portals: finding.portal.clone().into_iter().collect(),
        count: u64::from(finding.portal.is_some()),
        few: false,
        lifetime: finding.lifetime,
    }
}
