
/// Whether the program is to be broken in this way: `REFRESHD_MUTANT` names one. Added to `lib.rs` by the simulation's
/// rig, with the patches of `tests/mutants`, in a copy of the tree.
fn mutated(name: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let mutant = MUTANT.get_or_init(|| std::env::var_os("REFRESHD_MUTANT"));
    mutant.as_ref().is_some_and(|mutant| mutant == name)
}
