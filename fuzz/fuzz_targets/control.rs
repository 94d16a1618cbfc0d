//! Fuzzes `refreshd_fuzz::control`, with one daemon for all inputs. Must not know what holds.
#![no_main]

use std::sync::LazyLock;

use refreshd_fuzz::control::Daemon;

static DAEMON: LazyLock<Daemon> = LazyLock::new(Daemon::start);

libfuzzer_sys::fuzz_target!(|data: &[u8]| DAEMON.holds(data));
