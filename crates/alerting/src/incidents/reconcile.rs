//! All that is wrong, gathered in one look: what has one cause is grouped, and each incident meets what it is about.
//!
//! Memory does not grow with the number of troubled portals: of those that are grouped a few are kept by name. Must not
//! know where troubles come from.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, GroupKey, ReachedStep};
use super::{Incident, MessageContext, Notification};
use crate::message::MessageSubject;
use refreshd_time::Timestamp;

/// Portals that a message names.
const NAMED: usize = 20;

/// All incidents, by their keys.
pub type Incidents = BTreeMap<String, Incident>;

/// What decides besides what is wrong.
#[derive(Clone, Debug)]
pub struct AlertRules {
    /// So many troubles with one cause are one incident.
    pub group_threshold: usize,
    /// The channels that hear of incidents.
    pub channels: Vec<String>,
    /// Now.
    pub now: Timestamp,
}

/// Gathers troubles, as many as there are.
pub struct Reconciler<'a> {
    incidents: &'a Incidents,
    group_threshold: usize,
    now: Timestamp,
    groups: BTreeMap<GroupKey, FindingGroup>,
    alone: Vec<Finding>,
    /// Open incidents whose trouble is still there, though they may have nothing to say of it.
    seen: BTreeSet<String>,
    /// Open incidents whose trouble is another one's now, by its key.
    moved: BTreeMap<String, String>,
}

/// Troubles with one cause.
#[derive(Default)]
struct FindingGroup {
    count: u64,
    /// The soonest to expire.
    kept: Vec<Finding>,
    reached: BTreeMap<String, ReachedStep>,
    since: Option<Timestamp>,
}

/// What there is to do after a look.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Incidents that changed.
    pub changed: Vec<Incident>,
    /// Incidents that are long over.
    pub forgotten: Vec<String>,
    /// What people are told.
    pub tellings: Vec<Notification>,
    /// When to look again though nothing changes.
    pub next: Option<Timestamp>,
}

impl<'a> Reconciler<'a> {
    /// Nothing is known to be wrong yet.
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

    /// Something is wrong. Of what is silenced nothing is told, but it is not over.
    pub fn add(&mut self, trouble: Finding, silenced: bool) {
        if self.is_open(&trouble.key) {
            let of_group = trouble
                .group
                .as_ref()
                .filter(|group| group.always && trouble.is_of_group && !silenced);
            match of_group {
                Some(group) => {
                    self.moved.insert(trouble.key.clone(), group.key.clone());
                }
                None => {
                    self.seen.insert(trouble.key.clone());
                }
            }
        }
        if silenced {
            let group = trouble.group.filter(|group| self.is_open(&group.key));
            self.seen.extend(group.map(|group| group.key));
            return;
        }
        let Some(group) = &trouble.group else {
            return self.alone.push(trouble);
        };
        let kept = NAMED.max(self.group_threshold);
        self.groups
            .entry(group.clone())
            .or_default()
            .add(trouble, kept);
    }

    /// Open incidents whose trouble nobody has added: they are over, whatever ended them.
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

    /// The incident that has taken this one's trouble over.
    #[must_use]
    pub fn moved_to(&self, key: &str) -> Option<&str> {
        self.moved.get(key).map(String::as_str)
    }

    /// How many troubles there are with the cause that this incident groups.
    #[must_use]
    pub fn left(&self, key: &str) -> u64 {
        self.groups
            .iter()
            .filter(|(group, _)| group.key == key)
            .map(|(_, gathered)| gathered.count)
            .sum()
    }

    /// What each incident comes to. `endings` says why those of [`Self::unseen`] are over; one that is not in there is
    /// left as it is.
    #[must_use]
    pub fn decide(self, terms: &AlertRules, endings: &BTreeMap<String, String>) -> Reconciled {
        let AlertRules { channels, now, .. } = terms;
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
            let hear = match &view.subject {
                // A channel that does not deliver is told of to the others.
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
            decision.tellings.extend(incident.update(view, hear, *now));
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
                decision.tellings.extend(incident.close(reason, *now));
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

    /// Many with one cause are one; few are themselves. One that is grouped already stays so until half as many are left, and
    /// for some time then.
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
    fn add(&mut self, trouble: Finding, most: usize) {
        self.count += 1;
        self.since = Some(
            self.since
                .map_or(trouble.since, |since| since.min(trouble.since)),
        );
        for step in &trouble.reached {
            self.reached
                .entry(step.id.clone())
                .or_insert_with(|| step.clone());
        }
        let at = self
            .kept
            .partition_point(|kept| urgency(kept) <= urgency(&trouble));
        if at < most {
            self.kept.insert(at, trouble);
            self.kept.truncate(most);
        }
    }

    fn view(&self, group: &GroupKey, few: bool) -> Option<MessageContext> {
        let worst = self
            .kept
            .iter()
            .max_by_key(|trouble| trouble.reached.iter().map(|step| step.severity).max())?;
        let names = self
            .kept
            .iter()
            .filter_map(|trouble| trouble.portal.clone())
            .take(NAMED);
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
                .filter_map(|trouble| trouble.expires_at)
                .min(),
            portals: names.collect(),
            count: self.count,
            few,
            lifetime: worst.lifetime,
        })
    }
}

/// The order in which portals need help: no token at all comes first.
fn urgency(trouble: &Finding) -> (Option<Timestamp>, &str) {
    (trouble.expires_at, &trouble.key)
}

fn alone(trouble: &Finding) -> MessageContext {
    MessageContext {
        key: trouble.key.clone(),
        subject: trouble.subject.clone(),
        reached: trouble.reached.clone(),
        reason: trouble.reason.clone(),
        action: trouble.action.clone(),
        since: trouble.since,
        expires_at: trouble.expires_at,
        portals: trouble.portal.clone().into_iter().collect(),
        count: u64::from(trouble.portal.is_some()),
        few: false,
        lifetime: trouble.lifetime,
    }
}
