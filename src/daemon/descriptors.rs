//! Who gets the file descriptors of this process (`RLIMIT_NOFILE`). Where there are few, guests of the listeners have to do with
//! fewer before renewals do, and the state and the token files always have theirs.
//!
//! Must not change the limit: the process raises it as far as it may when it begins.

use rustix::process::{Resource, getrlimit};

/// For the state, the token files, the log, the sockets themselves, name resolution and the runtime.
const RESERVED: usize = 64;
/// Where a limit is not known to be one.
const UNLIMITED: usize = 1 << 20;

/// Requests in flight over all authorization servers together, at least 1, where so many descriptors are in use for good.
pub(super) fn for_requests(in_use: usize) -> usize {
    requests(limit().saturating_sub(in_use))
}

/// Connections of a listener that would like so many; at least 4.
pub(super) fn for_guests(wanted: usize) -> usize {
    guests(limit(), wanted)
}

fn limit() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(UNLIMITED)
}

/// Half of what is not reserved, and all of it but 512 where there is more. An idle connection may still be open for each.
fn requests(limit: usize) -> usize {
    let free = limit.saturating_sub(RESERVED);
    (free / 2).max(free.saturating_sub(512)).max(1)
}

/// An eighth of what is not reserved: there are three listeners.
fn guests(limit: usize, wanted: usize) -> usize {
    (limit.saturating_sub(RESERVED) / 8).clamp(4, wanted.max(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_and_the_files_always_have_their_descriptors() {
        for limit in [64, 80, 128, 256, 1024, 4096, 1 << 19] {
            let guests = guests(limit, 128) + guests(limit, 64) + guests(limit, 256);
            let all = requests(limit) + guests;
            assert!(limit < 128 || all + RESERVED <= limit + 16, "{limit}: {all}");
            assert!(requests(limit) >= 1 && guests >= 12);
        }
        assert!(requests(4096) > 3000, "thirteen servers with 256 requests each");
    }
}
