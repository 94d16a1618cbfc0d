//! Fuzzes `refreshd_fuzz::reply`. Must not know what holds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| refreshd_fuzz::reply::holds(data));
