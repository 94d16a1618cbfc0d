//! Distribution of this process's file descriptors (`RLIMIT_NOFILE`). If they are scarce, the listeners accept fewer
//! clients before renewals are restricted, and the state and the token files always have theirs.
//!
//! Must not change the limit: the process raises it as far as permitted at its start.

use crate::daemon::http::connection_limits::ConnectionLimits;
use rustix::process::{Resource, getrlimit};

/// For the state, the token files, the log, the sockets themselves, name resolution and the runtime.
const RESERVED: usize = 64;
/// Fewer concurrent requests than this are logged.
const MIN_REQUESTS: usize = 16;
/// Number of descriptors with which fewer than a hundred portals never wait.
const RECOMMENDED: usize = 256;
/// Substitute for an unknown or infinite limit.
const UNLIMITED: usize = 1 << 20;

/// Concurrent requests to all authorization servers together, at least 1; `in_use` descriptors are permanently occupied.
pub(crate) fn for_requests(in_use: usize) -> usize {
    requests(limit().saturating_sub(in_use))
}

/// Connection limits of a listener that requests `open` and `spare`; at least 4.
pub(crate) fn for_clients(open: usize, spare: usize) -> ConnectionLimits {
    clients(limit(), open, spare)
}

/// Warning for the log if there are so few that renewals wait for each other.
pub(crate) fn shortage(in_use: usize) -> Option<String> {
    let (limit, requests) = (limit(), for_requests(in_use));
    (requests < MIN_REQUESTS).then(|| {
        format!(
            "this process may have only {limit} file descriptors open, and refreshd needs {RESERVED} for itself, some for clients and 2 \
             for each token request: it sends {requests} at a time, and many portals are renewed late. Raise LimitNOFILE= of the unit, \
             or ulimit -n, to {RECOMMENDED} or more"
        )
    })
}

fn limit() -> usize {
    getrlimit(Resource::Nofile)
        .current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(UNLIMITED)
}

/// Half of the unreserved ones, or all of them but 512 if that is more. Each request may leave an idle connection open.
fn requests(limit: usize) -> usize {
    let free = limit.saturating_sub(RESERVED);
    (free / 2).max(free.saturating_sub(512)).max(1)
}

/// An eighth of the unreserved ones: there are three listeners. Each needs one descriptor more than its connections.
fn clients(limit: usize, open: usize, spare: usize) -> ConnectionLimits {
    let all = (limit.saturating_sub(RESERVED) / 8)
        .saturating_sub(1)
        .clamp(4, (open + spare).max(4));
    let spare = spare.min(all / 4);
    ConnectionLimits {
        open: (all - spare).min(open.max(4)),
        spare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_files_always_have_their_descriptors() {
        for limit in [64, 80, 128, 256, 1024, 4096, 1 << 19] {
            let listeners =
                [(128, 40), (64, 16), (256, 0)].map(|(open, spare)| clients(limit, open, spare));
            let clients: usize = listeners
                .iter()
                .map(|limits| limits.open + limits.spare + 1)
                .sum();
            let all = requests(limit) + clients;
            assert!(limit < 128 || all + RESERVED <= limit, "{limit}: {all}");
            assert!(requests(limit) >= 1 && listeners.iter().all(|limits| limits.open >= 3));
            assert!(listeners[0].spare >= 1 && listeners[1].spare >= 1);
        }
        assert!(
            requests(4096) > 3000,
            "thirteen servers with 256 requests each"
        );
    }
}
