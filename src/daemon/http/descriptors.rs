//! Who gets the file descriptors of this process (`RLIMIT_NOFILE`). Where there are few, clients of the listeners have to do with
//! fewer before renewals do, and the state and the token files always have theirs.
//!
//! Must not change the limit: the process raises it as far as it may when it begins.

use crate::daemon::http::connection_limits::ConnectionLimits;
use rustix::process::{Resource, getrlimit};

/// For the state, the token files, the log, the sockets themselves, name resolution and the runtime.
const RESERVED: usize = 64;
/// Fewer requests at a time than this are told.
const FEW: usize = 16;
/// With so many descriptors nobody waits who has fewer than a hundred portals.
const ENOUGH: usize = 256;
/// Where a limit is not known to be one.
const UNLIMITED: usize = 1 << 20;

/// Requests in flight over all authorization servers together, at least 1, where so many descriptors are in use for good.
pub(crate) fn for_requests(in_use: usize) -> usize {
    requests(limit().saturating_sub(in_use))
}

/// Connections of a listener that would like so many, and so many spare ones; at least 4.
pub(crate) fn for_clients(open: usize, spare: usize) -> ConnectionLimits {
    clients(limit(), open, spare)
}

/// What is to be said if there are so few that renewals wait for each other.
pub(crate) fn shortage(in_use: usize) -> Option<String> {
    let (limit, requests) = (limit(), for_requests(in_use));
    (requests < FEW).then(|| {
        format!(
            "this process may have only {limit} file descriptors open, and refreshd needs {RESERVED} for itself, some for clients and 2 \
             for each token request: it sends {requests} at a time, and many portals are renewed late. Raise LimitNOFILE= of the unit, \
             or ulimit -n, to {ENOUGH} or more"
        )
    })
}

fn limit() -> usize {
    getrlimit(Resource::Nofile)
        .current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(UNLIMITED)
}

/// Half of what is not reserved, and all of it but 512 where there is more. An idle connection may still be open for each.
fn requests(limit: usize) -> usize {
    let free = limit.saturating_sub(RESERVED);
    (free / 2).max(free.saturating_sub(512)).max(1)
}

/// An eighth of what is not reserved: there are three listeners. Each has one descriptor more than it has places.
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
                .map(|places| places.open + places.spare + 1)
                .sum();
            let all = requests(limit) + clients;
            assert!(limit < 128 || all + RESERVED <= limit, "{limit}: {all}");
            assert!(requests(limit) >= 1 && listeners.iter().all(|places| places.open >= 3));
            assert!(listeners[0].spare >= 1 && listeners[1].spare >= 1);
        }
        assert!(
            requests(4096) > 3000,
            "thirteen servers with 256 requests each"
        );
    }
}
