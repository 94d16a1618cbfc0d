//! Renamed keys and values. The old names are accepted with a warning that gives the new one.

/// Keys: old, new.
const KEYS: [(&str, &str); 8] = [
    ("also", "match"),
    ("earliest", "not_before"),
    ("fold", "group_threshold"),
    ("hosts", "allowed_hosts"),
    ("names", "parameter_names"),
    ("portal_series", "per_portal_metrics_limit"),
    ("replay", "retry_ambiguous"),
    ("server", "token_server_field"),
];

/// The former name of a key.
pub(super) fn old_name(key: &str) -> Option<&'static str> {
    KEYS.iter()
        .find(|(_, new)| *new == key)
        .map(|(old, _)| *old)
}

/// The present name of a key.
pub(super) fn new_name(key: &str) -> Option<&'static str> {
    KEYS.iter()
        .find(|(old, _)| *old == key)
        .map(|(_, new)| *new)
}
